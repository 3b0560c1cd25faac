-- ANALYZE, VACUUM and what they leave in the catalogs.
CREATE SCHEMA "analyze";
SET search_path = "analyze";
CREATE TABLE t (id INT PRIMARY KEY, g INT, n INT, s TEXT) WITH (autovacuum_enabled = off);
INSERT INTO t SELECT i, i % 10, CASE WHEN i % 4 = 0 THEN NULL ELSE 1 END, 'some text ' || i FROM generate_series(1, 5000) i;
ANALYZE t;
SELECT reltuples, relpages > 0 AS pages FROM pg_class WHERE oid = 't'::regclass;
SELECT attname, null_frac, n_distinct, correlation FROM pg_stats WHERE schemaname = 'analyze' AND tablename = 't' AND attname <> 's' AND attname <> 'g' ORDER BY attname;
SELECT n_distinct, array_length(most_common_vals::text::text[], 1) AS mcv FROM pg_stats WHERE schemaname = 'analyze' AND tablename = 't' AND attname = 'g';
DELETE FROM t WHERE id > 4000;
UPDATE t SET s = s || '!' WHERE id <= 1000;
ANALYZE t (id, g);
SELECT reltuples FROM pg_class WHERE oid = 't'::regclass;
-- Rows of a transaction in progress.
BEGIN;
INSERT INTO t SELECT i, 0, 0, 'x' FROM generate_series(4001, 4500) i;
DELETE FROM t WHERE id <= 100;
ANALYZE t;
COMMIT;
ANALYZE t;
SELECT reltuples FROM pg_class WHERE oid = 't'::regclass;
SELECT count(*) FROM t;
-- VACUUM in its forms.
VACUUM t;
VACUUM (ANALYZE) t;
VACUUM (FREEZE) t;
VACUUM (FREEZE, ANALYZE, DISABLE_PAGE_SKIPPING) t;
VACUUM (INDEX_CLEANUP on, TRUNCATE off) t;
VACUUM (PARALLEL 2) t;
ANALYZE t;
SELECT count(*), sum(id), sum(length(s)) FROM t;
SELECT reltuples FROM pg_class WHERE oid = 't'::regclass;
VACUUM FULL t;
SELECT count(*), sum(id), sum(length(s)) FROM t;
SELECT reltuples FROM pg_class WHERE oid = 't'::regclass;
BEGIN;
VACUUM t;
ROLLBACK;
-- Rows after VACUUM: deleted ones stay away, ids are used again, indexes agree.
DELETE FROM t WHERE id % 2 = 0;
VACUUM t;
INSERT INTO t SELECT i, 1, 1, 'again' FROM generate_series(2, 1000, 2) i;
SET enable_seqscan = off;
SELECT count(*), sum(id) FROM t WHERE id <= 1000;
SELECT s FROM t WHERE id = 10;
RESET enable_seqscan;
SELECT count(*), sum(id) FROM t;
-- Frozen rows stay changeable.
VACUUM FREEZE t;
UPDATE t SET s = 'thawed' WHERE id < 200;
DELETE FROM t WHERE id BETWEEN 200 AND 400;
SELECT count(*), sum(id), count(*) FILTER (WHERE s = 'thawed') FROM t;
-- Sizes answer; an empty table, a partitioned one, extended statistics.
SELECT pg_relation_size('t') > 0 AS size, pg_table_size('t') > 0 AS table_size, pg_total_relation_size('t') > pg_table_size('t') AS with_indexes;
CREATE TABLE e (id INT);
ANALYZE e;
SELECT reltuples FROM pg_class WHERE oid = 'e'::regclass;
VACUUM e;
CREATE STATISTICS t_stat (dependencies, ndistinct, mcv) ON g, n FROM t;
ANALYZE t;
SELECT count(*) FROM pg_stats_ext WHERE schemaname = 'analyze' AND tablename = 't';
CREATE TABLE p (id INT) PARTITION BY RANGE (id);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
INSERT INTO p SELECT i % 100 FROM generate_series(1, 300) i;
ANALYZE p;
SELECT relname, reltuples FROM pg_class WHERE oid IN ('p'::regclass, 'p1'::regclass) ORDER BY 1;
SELECT relfrozenxid::text::bigint > 2 AS frozenxid_is_set FROM pg_class WHERE oid = 't'::regclass;
