-- Once, by a superuser. The tables are made by the first server that starts.
CREATE ROLE confide LOGIN;
\password confide
CREATE DATABASE confide OWNER confide ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE confide FROM PUBLIC;
