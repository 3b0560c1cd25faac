-- Every way of reading a table gives the same rows.
CREATE SCHEMA scans;
SET search_path = scans;
CREATE TABLE t (id INT PRIMARY KEY, g INT, s TEXT);
INSERT INTO t SELECT i, i % 100, repeat('s', i % 60) FROM generate_series(1, 30000) i;
UPDATE t SET g = g + 1 WHERE id % 10 = 0;
DELETE FROM t WHERE id % 7 = 0;
CREATE INDEX t_g ON t (g);
ANALYZE t;
CREATE FUNCTION uses(query TEXT, node TEXT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE l TEXT; found BOOLEAN := false;
BEGIN
  FOR l IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
    IF l LIKE '%' || node || '%' THEN found := true; END IF;
  END LOOP;
  RETURN found;
END $$;
SELECT count(*), sum(id), sum(g), sum(length(s)) FROM t;

-- TIDs: a row is found by its own, and by no other.
CREATE TABLE tids AS SELECT ctid AS tid, id FROM t WHERE id BETWEEN 1000 AND 1020;
SELECT uses('SELECT * FROM scans.t WHERE ctid = ''(0,1)''', 'Tid Scan') AS tid_scan;
SELECT t.id FROM t JOIN tids ON t.ctid = tids.tid WHERE t.id <> tids.id;
SELECT count(*) FROM t WHERE ctid = ANY (SELECT tid FROM tids);
SELECT count(*) FROM t WHERE ctid = ANY (ARRAY(SELECT tid FROM tids));
SELECT count(*) FROM t WHERE ctid = '(4000000000,1)';
SELECT count(*) FROM t WHERE ctid = (SELECT max(ctid) FROM t);
SELECT count(DISTINCT ctid) = count(*) AS distinct_tids FROM t;
-- TID ranges: both halves make the whole.
SELECT uses('SELECT * FROM scans.t WHERE ctid < ''(5,0)''', 'Tid Range Scan') AS tid_range;
SELECT (SELECT count(*) FROM t WHERE ctid < '(20,0)') + (SELECT count(*) FROM t WHERE ctid >= '(20,0)') AS both_halves;
SELECT (SELECT sum(id) FROM t WHERE ctid <= '(33,0)') + (SELECT sum(id) FROM t WHERE ctid > '(33,0)') AS both_halves;
SELECT count(*) FROM t WHERE ctid > '(4000000000,0)';
SELECT count(*) FROM t WHERE ctid < '(0,0)';
SELECT count(*) > 0 AND count(*) < 3000 AS some FROM t WHERE ctid >= '(3,0)' AND ctid < '(6,0)';
SELECT (SELECT count(*) FROM t WHERE ctid >= '(3,0)' AND ctid < '(6,0)') = (SELECT count(*) FROM t WHERE ctid::text ~ '^\((3|4|5),') AS same;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM t WHERE ctid < '(10,0)';
MOVE FORWARD ALL IN c;
FETCH BACKWARD 1 FROM c \gset last_
MOVE BACKWARD ALL IN c;
FETCH 1 FROM c \gset first_
SELECT :first_id < :last_id AS in_order;
COMMIT;

-- Bitmap scans, exact and lossy (work_mem at its smallest).
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT uses('SELECT * FROM scans.t WHERE g = 5', 'Bitmap Heap Scan') AS bitmap;
SELECT count(*), sum(id) FROM t WHERE g = 5;
SELECT count(*), sum(id) FROM t WHERE g < 50;
SET work_mem = '64kB';
SELECT count(*), sum(id) FROM t WHERE g < 50;
SELECT count(*), sum(id) FROM t WHERE g < 50 AND id < 10000;
SELECT count(*), sum(id) FROM t WHERE g < 5 OR id > 29000;
RESET work_mem;
RESET enable_seqscan;
RESET enable_indexscan;

-- Sampling: all, none, some, and repeatably.
SELECT count(*) FROM t TABLESAMPLE SYSTEM (100);
SELECT count(*) FROM t TABLESAMPLE BERNOULLI (100);
SELECT count(*) FROM t TABLESAMPLE SYSTEM (0);
SELECT count(*) BETWEEN 1000 AND 25000 AS some FROM t TABLESAMPLE BERNOULLI (50);
SELECT count(*) BETWEEN 1 AND 25714 AS some FROM t TABLESAMPLE SYSTEM (50) REPEATABLE (1);
SELECT (SELECT array_agg(id ORDER BY id) FROM t TABLESAMPLE BERNOULLI (5) REPEATABLE (3)) = (SELECT array_agg(id ORDER BY id) FROM t TABLESAMPLE BERNOULLI (5) REPEATABLE (3)) AS repeats;
SELECT count(DISTINCT id) = count(*) AS once FROM t TABLESAMPLE SYSTEM (30);

-- Parallel.
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SET enable_indexonlyscan = off;
SELECT uses('SELECT count(*) FROM scans.t', 'Parallel Seq Scan') AS parallel_seq;
SELECT count(*), sum(id), sum(g), sum(length(s)) FROM t;
SELECT count(*), sum(a.id) FROM t a JOIN t b ON a.id = b.id + 1;
SET enable_bitmapscan = on;
SET enable_seqscan = off;
SELECT uses('SELECT count(*), sum(id) FROM scans.t WHERE g < 50', 'Parallel Bitmap Heap Scan') AS parallel_bitmap;
SELECT count(*), sum(id) FROM t WHERE g < 50;
SET enable_indexscan = on;
SET enable_bitmapscan = off;
SELECT uses('SELECT count(*), sum(length(s)) FROM scans.t WHERE g < 50', 'Parallel Index Scan') AS parallel_index;
SELECT count(*), sum(id) FROM t WHERE g < 50;
SELECT g, count(*) FROM t WHERE g BETWEEN 10 AND 12 GROUP BY g ORDER BY g;
RESET ALL;
SET search_path = scans;
SET max_parallel_maintenance_workers = 2;
SET min_parallel_table_scan_size = 0;
CREATE INDEX t_par ON t (s, id);
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM t WHERE s = repeat('s', 17);
CREATE TABLE made AS SELECT * FROM t WHERE g < 20;
SELECT count(*), sum(id) FROM made;
RESET ALL;
SET search_path = scans;

-- Joins that scan again and again.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SET enable_memoize = off;
SELECT count(*) FROM (SELECT * FROM t WHERE id < 20) a JOIN (SELECT * FROM t WHERE s = 'sss' AND id < 1000) b ON a.g = b.g;
SET enable_indexscan = off;
SET enable_bitmapscan = off;
SELECT count(*) FROM generate_series(1, 5) i, LATERAL (SELECT * FROM t WHERE t.g = i) x;
RESET ALL;
SET search_path = scans;

-- LIMIT stops early, and an abandoned scan leaves nothing behind.
SELECT count(*) FROM (SELECT * FROM t LIMIT 10) x;
DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM 1 FROM scans.t LIMIT 1; END LOOP; END $$;
SELECT EXISTS (SELECT FROM t WHERE g = 99), EXISTS (SELECT FROM t WHERE g = 1000);

-- Empty, emptied and never filled.
CREATE TABLE e (id INT PRIMARY KEY, v INT);
SELECT * FROM e;
SELECT * FROM e WHERE ctid = '(0,1)';
SELECT count(*) FROM e TABLESAMPLE SYSTEM (100);
INSERT INTO e SELECT i, i FROM generate_series(1, 1000) i;
DELETE FROM e;
SELECT count(*), max(id) FROM e;
SELECT max(id) FROM e WHERE id < 10;
INSERT INTO e VALUES (1, 1);
SELECT * FROM e;

-- A bitmap scan that began before the pages of some of its entries.
CREATE TABLE scan_later (a INT, b INT);
INSERT INTO scan_later SELECT CASE WHEN g IN (100, 200) THEN 1 ELSE 2 END, g FROM generate_series(1, 255) g;
CREATE INDEX ON scan_later (a);
BEGIN;
SET LOCAL enable_seqscan = off;
SET LOCAL enable_indexscan = off;
DECLARE c CURSOR FOR SELECT * FROM scan_later WHERE a = 1;
INSERT INTO scan_later SELECT 1, g FROM generate_series(256, 258) g;
FETCH ALL FROM c;
COMMIT;
DROP TABLE scan_later;
