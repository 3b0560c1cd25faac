-- That the tables of these tests are orbit's, and what only orbit has.
SHOW default_table_access_method;
CREATE TABLE orbit_one (id INT PRIMARY KEY, s TEXT);
SELECT a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = 'orbit_one'::regclass;
SELECT DISTINCT a.amname FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND nspname IN ('dml', 'triggers', 'indexes', 'toast', 'partitions') AND relname <> 'on_heap';
INSERT INTO orbit_one SELECT i, 's' || i FROM generate_series(1, 1000) i;
CHECKPOINT;
SELECT name FROM orbit_column_families() ORDER BY name;
SELECT files > 0 AS files, bytes > 0 AS bytes FROM orbit_column_families() WHERE name = 'pg_data';
SELECT count(*), sum(id) FROM orbit_one;
-- Database copies that would lack their rows are refused.
CREATE DATABASE orbit_copy TEMPLATE contrib_regression;
SELECT name, vartype, unit, context FROM pg_settings WHERE name LIKE 'orbit.%' ORDER BY name;
