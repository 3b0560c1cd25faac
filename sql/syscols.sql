-- System columns.
CREATE SCHEMA syscols;
SET search_path = syscols;
CREATE TABLE t (id INT PRIMARY KEY, v INT);
INSERT INTO t VALUES (1, 1), (2, 2), (3, 3);
SELECT tableoid::regclass, id, xmax = 0 AS no_xmax, ctid IS NOT NULL AS has_ctid FROM t ORDER BY id;
BEGIN;
INSERT INTO t VALUES (4, 4);
SELECT id, xmin::text::bigint = txid_current() % (2 ^ 32)::bigint AS mine, xmax = 0 AS no_xmax FROM t ORDER BY id;
UPDATE t SET v = 20 WHERE id = 2;
SELECT id, xmin::text::bigint = txid_current() % (2 ^ 32)::bigint AS mine FROM t ORDER BY id;
-- xmin of a subtransaction is its own.
SAVEPOINT s;
INSERT INTO t VALUES (5, 5);
SELECT id, xmin::text::bigint = txid_current() % (2 ^ 32)::bigint AS of_top, xmin::text::bigint > txid_current() % (2 ^ 32)::bigint AS of_sub FROM t WHERE id > 3 ORDER BY id;
ROLLBACK;
-- Command ids tell the commands of a transaction apart.
BEGIN;
INSERT INTO t VALUES (6, 6), (7, 7);
INSERT INTO t VALUES (8, 8);
SELECT id, cmin::text::int - min(cmin::text::int) OVER () AS command FROM t WHERE id > 5 ORDER BY id;
COMMIT;
-- xmin as a row's version: unchanged by a read, a lock or a failed update; changed by an update.
CREATE TABLE versions AS SELECT id, xmin AS x, ctid AS tid FROM t;
SELECT * FROM t WHERE id = 1 FOR UPDATE;
BEGIN;
UPDATE t SET v = 100 WHERE id = 1;
ROLLBACK;
SELECT id, t.xmin = x AS same_xmin, t.ctid = tid AS same_ctid FROM t JOIN versions USING (id) ORDER BY id;
UPDATE t SET v = v + 1 WHERE id = 1 AND xmin = (SELECT x FROM versions WHERE id = 1);
UPDATE t SET v = v + 1 WHERE id = 1 AND xmin = (SELECT x FROM versions WHERE id = 1);
SELECT v FROM t WHERE id = 1;
SELECT id, t.xmin = x AS same_xmin, t.ctid = tid AS same_ctid FROM t JOIN versions USING (id) ORDER BY id;
-- An old ctid leads nowhere.
SELECT count(*) FROM t WHERE ctid = (SELECT tid FROM versions WHERE id = 1);
UPDATE t SET v = 0 WHERE ctid = (SELECT tid FROM versions WHERE id = 1);
UPDATE t SET v = 0 WHERE ctid = (SELECT tid FROM versions WHERE id = 2) RETURNING id, v;
DELETE FROM t WHERE ctid IN (SELECT min(ctid) FROM t WHERE id = 3) RETURNING id;
-- xmax of a row that is locked, or whose deletion was rolled back, by its own transaction.
BEGIN;
SELECT id FROM t WHERE id = 6 FOR UPDATE;
SELECT xmax::text::bigint = txid_current() % (2 ^ 32)::bigint AS locked_by_me FROM t WHERE id = 6;
COMMIT;
-- Removing duplicates by ctid.
CREATE TABLE dup (v INT);
INSERT INTO dup SELECT i % 10 FROM generate_series(1, 50) i;
DELETE FROM dup a USING dup b WHERE a.v = b.v AND a.ctid > b.ctid;
SELECT * FROM dup ORDER BY v;
-- RETURNING, whole rows, system columns in triggers.
INSERT INTO t VALUES (9, 9) RETURNING tableoid::regclass, xmax = 0 AS new;
UPDATE t SET v = 99 WHERE id = 9 RETURNING tableoid::regclass, xmin::text::bigint = txid_current() % (2 ^ 32)::bigint AS mine;
CREATE FUNCTION show() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% % old in % new in %, tids differ: %', TG_OP, OLD, OLD.tableoid::regclass, NEW.tableoid::regclass, OLD.ctid IS DISTINCT FROM NEW.ctid; RETURN NULL; END $$;
CREATE TRIGGER show AFTER UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION show();
UPDATE t SET v = 999 WHERE id = 9;
DELETE FROM t WHERE id = 9;
-- An index scan in the order of distances that have to be computed again keeps rows for a while.
CREATE TABLE knn (id INT, p POLYGON);
INSERT INTO knn SELECT i, polygon(circle(point(i * 7919 % 1000, i * 104729 % 1000), 1 + i % 9)) FROM generate_series(1, 500) i;
CREATE INDEX ON knn USING gist (p);
UPDATE knn SET id = -id WHERE id % 50 = 0;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM knn ORDER BY p <-> point(500, 500);
CREATE TABLE near AS SELECT id, ctid AS tid, xmin AS x, cmin::text AS c FROM knn ORDER BY p <-> point(500, 500);
RESET enable_seqscan;
SELECT count(*), count(*) FILTER (WHERE tid = knn.ctid AND x = knn.xmin AND c = knn.cmin::text) AS same FROM near JOIN knn USING (id);
