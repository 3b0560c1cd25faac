-- Every index type over the same rows gives what a scan of the table gives.
CREATE SCHEMA indexes;
SET search_path = indexes;
CREATE FUNCTION uses(query TEXT, node TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE l TEXT; found BOOLEAN := false;
BEGIN
  FOR l IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF l LIKE '%' || node || '%' THEN found := true; END IF;
  END LOOP;
  RETURN found;
END $$;
CREATE TABLE t (id INT, n INT, s TEXT, tags TEXT[], r INT4RANGE, p POINT, ts TSVECTOR);
INSERT INTO t SELECT i, i * 7919 % 1000, 'name ' || i * 31 % 500, ARRAY['t' || i % 10, 'u' || i % 7], int4range(i, i + 10), point(i % 100, i / 100), to_tsvector('simple', 'w' || i % 13 || ' x' || i % 17) FROM generate_series(1, 3000) i;
CREATE INDEX bt ON t (n, id);
CREATE UNIQUE INDEX uq ON t (id) INCLUDE (n);
CREATE INDEX hs ON t USING hash (s);
CREATE INDEX gn ON t USING gin (tags);
CREATE INDEX gt ON t USING gin (ts);
CREATE INDEX gs ON t USING gist (r);
CREATE INDEX gp ON t USING gist (p);
CREATE INDEX sp ON t USING spgist (s);
CREATE INDEX br ON t USING brin (id) WITH (pages_per_range = 2);
CREATE INDEX ex ON t ((n % 10), lower(s));
CREATE INDEX pa ON t (n) WHERE id > 2900;
UPDATE t SET n = n + 1 WHERE id % 10 = 0;
UPDATE t SET tags = tags || 'new'::text, s = 'renamed' WHERE id % 100 = 1;
DELETE FROM t WHERE id % 15 = 0;
INSERT INTO t SELECT i, i % 50, 'late', '{late}', int4range(i, NULL), point(0, 0), 'late' FROM generate_series(3001, 3100) i;

CREATE TABLE questions (q TEXT, node TEXT);
INSERT INTO questions VALUES
  ('SELECT count(*), sum(id) FROM indexes.t WHERE n BETWEEN 100 AND 200', 'bt'),
  ('SELECT count(*), sum(n) FROM indexes.t WHERE id = 77', 'uq'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE s = ''name 31''', 's'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE s = ''renamed''', 's'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE tags @> ''{t3,u4}''', 'gn'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE tags && ''{new,late}''', 'gn'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE ts @@ ''w3 & x5''', 'gt'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE r @> 500', 'gs'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE r && ''[2990,2995)''', 'gs'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE p <@ box ''((10,10),(20,12))''', 'gp'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE s ^@ ''name 4''', 'sp'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE n % 10 = 3 AND lower(s) > ''name 3''', 'ex'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE n < 500 AND id > 2950', ''),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE n = 100 OR n = 200 OR id = 5', 'BitmapOr'),
  ('SELECT count(*), sum(id) FROM indexes.t WHERE n IN (1, 2, 3, 500, 999)', 'bt');
CREATE FUNCTION ask() RETURNS TABLE (n BIGINT, question TEXT, seq TEXT, same BOOLEAN, used BOOLEAN) LANGUAGE plpgsql AS $$
DECLARE q RECORD; a TEXT; b TEXT; c TEXT; r RECORD;
BEGIN
  n := 0;
  FOR q IN SELECT * FROM indexes.questions LOOP
    n := n + 1;
    SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off;
    EXECUTE q.q INTO r; a := r::text;
    SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = on;
    EXECUTE q.q INTO r; b := r::text; used := indexes.uses(q.q, q.node);
    SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = on;
    EXECUTE q.q INTO r; c := r::text;
    question := regexp_replace(q.q, '^.*WHERE ', ''); seq := a; same := a = b AND b = c;
    RETURN NEXT;
  END LOOP;
  SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_indexonlyscan = on;
END $$;
SELECT * FROM ask();
-- BRIN alone, before and after its summary is brought up to date.
BEGIN;
DROP INDEX uq;
SET LOCAL enable_seqscan = off;
SELECT uses('SELECT 1 FROM indexes.t WHERE id BETWEEN 1000 AND 1100', 'Bitmap Index Scan on br') AS brin;
SELECT count(*), sum(n) FROM t WHERE id BETWEEN 1000 AND 1100;
SELECT count(*), sum(n) FROM t WHERE id > 3050;
SELECT brin_summarize_new_values('br') >= 0 AS summarized;
SELECT count(*), sum(n) FROM t WHERE id > 3050;
SELECT count(*), sum(n) FROM t WHERE id < 20;
ROLLBACK;
-- Nearest neighbour, order from the index, index-only, merge join.
SET enable_seqscan = off;
SET enable_sort = off;
SELECT id FROM (SELECT id, p FROM t WHERE id < 3000 ORDER BY p <-> point(50.2, 15.1) LIMIT 3) x ORDER BY id;
SELECT n, id FROM t ORDER BY n DESC, id DESC LIMIT 3;
SELECT id, n FROM t WHERE id < 10 ORDER BY id;
RESET enable_seqscan;
RESET enable_sort;
-- Rebuilt in every way, in the middle of changes.
BEGIN;
UPDATE t SET n = n + 1 WHERE id % 10 = 0;
DELETE FROM t WHERE id % 77 = 0;
REINDEX TABLE t;
SAVEPOINT a;
DELETE FROM t WHERE id < 1000;
REINDEX INDEX bt;
ROLLBACK TO a;
COMMIT;
SELECT bool_and(same) FROM ask();
REINDEX INDEX CONCURRENTLY bt;
REINDEX TABLE CONCURRENTLY t;
CREATE INDEX CONCURRENTLY cic ON t (s, id);
\set VERBOSITY terse
CREATE UNIQUE INDEX CONCURRENTLY cic_uq ON t (n);
\set VERBOSITY default
SELECT indexrelid::regclass::text AS invalid FROM pg_index WHERE indrelid = 't'::regclass AND NOT indisvalid ORDER BY 1;
DROP INDEX cic_uq;
DROP INDEX CONCURRENTLY cic;
SELECT bool_and(same) FROM ask();
VACUUM t;
SELECT bool_and(same) FROM ask();
-- Uniqueness found, or not, when an index is built.
CREATE TABLE d (a INT, b INT);
INSERT INTO d VALUES (1, 1), (1, 2), (2, 3);
CREATE UNIQUE INDEX ON d (a);
BEGIN;
DELETE FROM d WHERE b = 2;
CREATE UNIQUE INDEX d_a ON d (a);
COMMIT;
INSERT INTO d VALUES (2, 4);
-- A row changed in place many times, then indexed by what changed.
CREATE TABLE chain (id INT PRIMARY KEY, a INT, b INT);
INSERT INTO chain SELECT i, i, i FROM generate_series(1, 50) i;
UPDATE chain SET b = b + 100;
UPDATE chain SET b = b + 100;
CREATE INDEX chain_b ON chain (b);
UPDATE chain SET a = a + 1;
UPDATE chain SET b = b + 100 WHERE id <= 25;
SET enable_seqscan = off;
SELECT count(*) FROM chain WHERE b BETWEEN 101 AND 150;
SELECT count(*) FROM chain WHERE b BETWEEN 201 AND 250;
SELECT count(*) FROM chain WHERE b BETWEEN 301 AND 350;
SELECT * FROM chain WHERE b = 301;
SELECT * FROM chain WHERE b = 226;
RESET enable_seqscan;
-- Keys too long, and expressions that fail.
CREATE TABLE long (v TEXT);
CREATE INDEX ON long (v);
INSERT INTO long SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i;
INSERT INTO long VALUES ('fine');
CREATE INDEX ON long ((v::int));
SELECT * FROM long;
