// Images on their way to the model: as data URLs, few and small enough for the server, made smaller where they are not.

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const LONGEST_SIDE = 2048;
const KEPT_AS_IT_IS = 2 * 1024 * 1024;
const MOST_BYTES = 40 * 1024 * 1024;

export const MOST_IMAGES = 8;

/** A file as a data URL. Throws an Error with a sentence for the person. */
export async function asImage(file) {
  if (!KINDS.includes(file.type)) throw new Error(`${file.name || "This file"} is no PNG, JPEG, WebP or GIF image.`);
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES / 2 ** 20} MiB.`);
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "This image"} can't be read.`);
  });
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const small = scale === 1 && file.size <= KEPT_AS_IT_IS && file.type !== "image/gif"; // of an animation, the first frame
  const blob = small ? file : await redrawn(bitmap, scale, file.type);
  bitmap.close();
  return { name: file.name || "image", url: await dataUrl(blob) };
}

async function redrawn(bitmap, scale, type) {
  const canvas = new OffscreenCanvas(
    Math.max(1, Math.round(bitmap.width * scale)),
    Math.max(1, Math.round(bitmap.height * scale)),
  );
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob(type === "image/jpeg" ? { type, quality: 0.9 } : { type: "image/png" });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("This image can't be read."));
    reader.readAsDataURL(blob);
  });
}

/** The files of a drop or a paste. */
export function filesIn(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
