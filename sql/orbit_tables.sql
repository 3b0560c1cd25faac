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
-- Versions of wide rows are not piled up on one page: after 128 kB the row goes on elsewhere.
DO $$ DECLARE cols TEXT; BEGIN SELECT string_agg(format('c%s NAME', i), ',') INTO cols FROM generate_series(1, 100) i; EXECUTE 'CREATE TABLE orbit_wide (id INT, ' || cols || ')'; END $$;
INSERT INTO orbit_wide SELECT i FROM generate_series(1, 50) i;
CREATE TABLE orbit_places (id INT, round INT, page BIGINT, slot INT);
CREATE FUNCTION orbit_rewrite(rounds INT) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE cols TEXT;
BEGIN
	SELECT string_agg(format('c%s = $1::text', i), ',') INTO cols FROM generate_series(1, 100) i;
	FOR round IN 1..rounds LOOP
		EXECUTE 'UPDATE orbit_wide SET ' || cols USING round;
		INSERT INTO orbit_places SELECT id, round, (ctid::text::point)[0], (ctid::text::point)[1]::int % 256 FROM orbit_wide;
	END LOOP;
END $$;
SELECT orbit_rewrite(100);
SELECT max(versions) <= 40 AS not_too_many FROM (SELECT count(*) AS versions FROM orbit_places GROUP BY id, page, slot) x;
SELECT count(*), count(DISTINCT id), min(c1), max(c100) FROM orbit_wide;
