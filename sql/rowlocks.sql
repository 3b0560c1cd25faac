-- Row locks in one session (between sessions: specs/orbit_*).
CREATE SCHEMA rowlocks;
SET search_path = rowlocks;
CREATE TABLE t (id INT PRIMARY KEY, v INT);
INSERT INTO t SELECT i, i FROM generate_series(1, 5) i;
BEGIN;
SELECT * FROM t ORDER BY id FOR KEY SHARE;
SELECT * FROM t ORDER BY id FOR SHARE;
SELECT * FROM t ORDER BY id FOR NO KEY UPDATE;
SELECT * FROM t ORDER BY id FOR UPDATE;
SELECT * FROM t ORDER BY id FOR KEY SHARE;
UPDATE t SET v = v + 1 WHERE id = 1;
SELECT * FROM t ORDER BY id FOR UPDATE;
UPDATE t SET id = 10 WHERE id = 1;
SELECT * FROM t ORDER BY id FOR SHARE SKIP LOCKED;
DELETE FROM t WHERE id = 10;
SELECT * FROM t ORDER BY id FOR UPDATE NOWAIT;
ROLLBACK;
SELECT * FROM t ORDER BY id;
-- Locked by a transaction that is over: free again.
BEGIN;
SELECT * FROM t WHERE id = 2 FOR UPDATE;
COMMIT;
UPDATE t SET v = 22 WHERE id = 2;
-- Rows locked many times, by many subtransactions, and then changed.
BEGIN;
DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN PERFORM 1 FROM rowlocks.t WHERE id = 3 FOR SHARE; IF i % 2 = 0 THEN RAISE 'x'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
UPDATE t SET v = 33 WHERE id = 3;
COMMIT;
-- With joins, subqueries, limits.
SELECT a.id, b.v FROM t a JOIN t b ON a.id = b.id WHERE a.id < 3 ORDER BY a.id FOR UPDATE OF a;
SELECT id FROM t ORDER BY v DESC LIMIT 2 FOR UPDATE;
UPDATE t SET v = 0 WHERE id = (SELECT id FROM t WHERE v > 3 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *;
SELECT count(*) FROM t GROUP BY v FOR UPDATE;
SELECT id FROM (SELECT * FROM t FOR UPDATE) x WHERE id < 3 ORDER BY id;
-- A queue: take from the head, add at the tail.
CREATE TABLE queue (id SERIAL PRIMARY KEY, job TEXT);
INSERT INTO queue (job) SELECT 'job ' || i FROM generate_series(1, 5) i;
DO $$
DECLARE r RECORD; k INT := 0;
BEGIN
  FOR i IN 1..500 LOOP
    DELETE FROM rowlocks.queue WHERE id = (SELECT id FROM rowlocks.queue ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING * INTO r;
    k := k + r.id;
    INSERT INTO rowlocks.queue (job) VALUES ('job ' || r.id + 5);
  END LOOP;
  RAISE NOTICE 'sum of ids taken: %', k;
END $$;
SELECT * FROM queue ORDER BY id;
