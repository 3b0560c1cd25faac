-- Values too wide for a row: compressed, out of line, changed, copied, left behind.
CREATE SCHEMA toast;
SET search_path = toast;
CREATE FUNCTION noise(kb INT, seed INT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$ SELECT string_agg(md5(i::text || seed::text), '' ORDER BY i) FROM generate_series(1, kb * 32) i $$;
CREATE TABLE t (id INT PRIMARY KEY, small TEXT, big TEXT, ext TEXT, j JSONB);
ALTER TABLE t ALTER ext SET STORAGE EXTERNAL;
INSERT INTO t VALUES
  (1, 'none', NULL, NULL, NULL),
  (2, 'compressible', repeat('a', 100000), NULL, NULL),
  (3, 'out of line', noise(20, 3), NULL, NULL),
  (4, 'external', NULL, repeat('b', 50000), NULL),
  (5, 'all', noise(100, 5), noise(50, 5), (SELECT jsonb_object_agg('k' || i, md5(i::text)) FROM generate_series(1, 500) i)),
  (6, 'a megabyte', noise(1024, 6), NULL, NULL);
SELECT id, small, length(big) AS big, md5(big) AS bigsum, length(ext) AS ext, md5(ext) AS extsum, md5(j::text) AS j FROM t ORDER BY id;
SELECT id, substr(ext, 40000, 5) AS part, substr(big, 90000, 6) AS bigpart, j ->> 'k77' AS k FROM t ORDER BY id;
-- The narrow column changes, the wide ones stay.
UPDATE t SET small = 'changed';
SELECT id, small, md5(big) AS bigsum, md5(ext) AS extsum FROM t ORDER BY id;
UPDATE t SET big = big || 'tail' WHERE id IN (2, 3);
UPDATE t SET big = NULL WHERE id = 6;
UPDATE t SET ext = left(ext, 10) WHERE id = 4;
BEGIN;
UPDATE t SET big = noise(30, 99), ext = noise(30, 98);
SELECT count(DISTINCT md5(big || ext)), sum(length(big) + length(ext)) FROM t;
ROLLBACK;
SELECT id, length(big) AS big, md5(big) AS bigsum, length(ext) AS ext FROM t ORDER BY id;
BEGIN;
DELETE FROM t WHERE id = 5;
INSERT INTO t VALUES (5, 'replaced', noise(10, 55), NULL, NULL);
SAVEPOINT s;
UPDATE t SET big = noise(40, 56) WHERE id = 5;
ROLLBACK TO s;
SELECT length(big), md5(big) FROM t WHERE id = 5;
ROLLBACK;
-- From table to table, by RETURNING, through a row value, a rewrite and a move.
CREATE TABLE copy AS SELECT * FROM t;
INSERT INTO copy SELECT id + 100, small, big, ext, j FROM t;
DELETE FROM t WHERE id = 3 RETURNING id, md5(big);
SELECT count(*), count(DISTINCT md5(big)), sum(length(big)), sum(length(ext)) FROM copy;
ALTER TABLE copy ALTER small TYPE VARCHAR(40), ADD COLUMN r DOUBLE PRECISION DEFAULT random();
SELECT count(*), count(DISTINCT md5(big)), sum(length(big)), sum(length(ext)) FROM copy;
VACUUM FULL copy;
CLUSTER copy USING copy_pkey;
ALTER TABLE copy ADD PRIMARY KEY (id);
CLUSTER copy USING copy_pkey;
SELECT count(*), count(DISTINCT md5(big)), sum(length(big)), sum(length(ext)) FROM copy;
DROP TABLE t CASCADE;
SELECT id, length(big), md5(big), md5(ext), md5(j::text) FROM copy WHERE id > 100 ORDER BY id;
-- Old values in triggers and cursors.
CREATE FUNCTION show() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% % -> %', OLD.id, md5(OLD.big), md5(NEW.big); RETURN NULL; END $$;
CREATE TRIGGER show AFTER UPDATE ON copy FOR EACH ROW WHEN (OLD.big IS DISTINCT FROM NEW.big) EXECUTE FUNCTION show();
BEGIN;
DECLARE c CURSOR FOR SELECT id, length(big) AS big, md5(big) FROM copy WHERE id IN (3, 103) ORDER BY id;
UPDATE copy SET big = noise(5, id) WHERE id IN (3, 103);
UPDATE copy SET big = NULL WHERE id = 103;
FETCH ALL FROM c;
COMMIT;
-- Compression methods and thresholds; many wide columns in one row.
CREATE TABLE tuned (id INT, v TEXT COMPRESSION pglz) WITH (toast_tuple_target = 200);
INSERT INTO tuned SELECT i, left(noise(1, i), i) FROM generate_series(100, 1000, 100) i;
SELECT count(*), sum(length(v)), md5(string_agg(v, '' ORDER BY id)) FROM tuned;
CREATE TABLE columns (a TEXT, b TEXT, c TEXT, d TEXT, e TEXT, f TEXT, g TEXT, h TEXT);
INSERT INTO columns SELECT noise(1, i), noise(2, i), noise(3, i), noise(1, -i), noise(2, -i), NULL, repeat('g', 3000), 'h' FROM generate_series(1, 40) i;
UPDATE columns SET f = noise(1, 7), a = 'a';
SELECT count(*), sum(length(a) + length(b) + length(c) + length(d) + length(e) + length(f) + length(g) + length(h)), md5(string_agg(b || d, '' ORDER BY b)) FROM columns;
