-- orbit_verify(): everything that is stored of a table is read and checked.
CREATE TABLE ver (id INT PRIMARY KEY, t TEXT, c CHAR(3), n NUMERIC, a INT[], b BYTEA, x TEXT);
INSERT INTO ver SELECT i, repeat('t', i % 50), 'abc', i / 3.0, ARRAY[i, NULL], '\x00ff', NULL
	FROM generate_series(1, 1000) i;
ALTER TABLE ver ADD COLUMN later INT DEFAULT 5;
ALTER TABLE ver DROP COLUMN c;
UPDATE ver SET later = id WHERE id <= 100;
UPDATE ver SET id = id + 5000 WHERE id BETWEEN 101 AND 110;
DELETE FROM ver WHERE id > 900 AND id < 2000;
INSERT INTO ver (id, t) SELECT 9000, string_agg(md5(i::text), '') FROM generate_series(1, 2000) i;
BEGIN;
INSERT INTO ver (id) SELECT generate_series(2001, 2050);
ROLLBACK;
SELECT relation, live_rows, versions >= 901 AS versions, problem FROM orbit_verify('ver');
SELECT orbit_flush();
SELECT relation, live_rows, versions >= 901 AS versions, problem FROM orbit_verify('ver');
-- rows of a transaction of one's own, of an empty table, of temporary and unlogged ones
BEGIN;
INSERT INTO ver (id) VALUES (10000);
SAVEPOINT a;
DELETE FROM ver WHERE id = 1;
SELECT relation, live_rows, problem FROM orbit_verify('ver');
ROLLBACK TO a;
SELECT relation, live_rows, problem FROM orbit_verify('ver');
COMMIT;
CREATE TABLE ver_empty (id INT);
CREATE TEMP TABLE ver_temp AS SELECT 1 AS one;
CREATE UNLOGGED TABLE ver_unlogged AS SELECT 1 AS one;
CREATE TABLE ver_none ();
INSERT INTO ver_none DEFAULT VALUES;
SELECT relation, live_rows, problem FROM orbit_verify()
	WHERE relation::text LIKE 'ver%' ORDER BY relation::text;
SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL;
-- not one of ours
CREATE TABLE ver_heap (id INT) USING heap;
SELECT * FROM orbit_verify('ver_heap');
DROP TABLE ver, ver_empty, ver_temp, ver_unlogged, ver_none, ver_heap;
