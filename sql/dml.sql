-- INSERT, UPDATE and DELETE in the shapes that reach a table access method differently.
CREATE SCHEMA dml;
SET search_path = dml;

CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 10) i;
INSERT INTO t VALUES (11, DEFAULT, DEFAULT), (12, 120, NULL) RETURNING *;
UPDATE t SET v = v + 1 WHERE id <= 3 RETURNING id, v;
UPDATE t SET id = id + 100 WHERE id > 8 RETURNING id, s;
DELETE FROM t WHERE id IN (4, 5) RETURNING *;
SELECT * FROM t ORDER BY id;

-- A statement does not see its own changes, and meets each row once.
UPDATE t SET v = (SELECT max(v) FROM t) WHERE id < 4;
INSERT INTO t SELECT id + 1000, v, s FROM t;
SELECT count(*), sum(v) FROM t;
\set VERBOSITY terse
UPDATE t SET id = id + 1;
\set VERBOSITY default
SELECT count(*), min(id), max(id) FROM t;
DELETE FROM t WHERE id > 1000;
UPDATE t SET id = id - 2000 WHERE id > 100;

-- Joins; a row joined twice is changed once.
CREATE TABLE delta (id INT, by INT);
INSERT INTO delta VALUES (1, 100), (1, 100), (2, 200);
UPDATE t SET v = v + by FROM delta WHERE delta.id = t.id;
SELECT * FROM t WHERE id < 4 ORDER BY id;
DELETE FROM t USING delta WHERE delta.id = t.id;
SELECT min(id), count(*) FROM t;

-- Data-modifying WITH: all see the same snapshot.
WITH gone AS (DELETE FROM t WHERE id = 7 RETURNING *), new AS (INSERT INTO t SELECT id + 500, v, s || ' moved' FROM gone RETURNING *)
SELECT (SELECT count(*) FROM t) AS before, (SELECT s FROM new) AS new;
SELECT count(*), max(id) FROM t;
WITH a AS (UPDATE t SET v = 1 WHERE id = 6 RETURNING id), b AS (UPDATE t SET v = 2 WHERE id = 6 RETURNING id) SELECT count(*) <= 2 AS ok FROM (SELECT * FROM a UNION ALL SELECT * FROM b) u;
SELECT v IN (1, 2) AS ok FROM t WHERE id = 6;

-- One row changed more often in one transaction than a row has versions.
CREATE TABLE hot (id INT PRIMARY KEY, n INT, pad TEXT);
INSERT INTO hot VALUES (1, 0, 'p'), (2, 0, 'q');
DO $$ BEGIN FOR i IN 1..700 LOOP UPDATE hot SET n = n + 1 WHERE id = 1; END LOOP; END $$;
SELECT * FROM hot ORDER BY id;
BEGIN;
DO $$ BEGIN FOR i IN 1..300 LOOP UPDATE hot SET n = n + 1 WHERE id = 1; END LOOP; END $$;
SELECT n FROM hot WHERE id = 1;
ROLLBACK;
SELECT n FROM hot WHERE id = 1;
-- ... each in a subtransaction of its own
DO $$ BEGIN FOR i IN 1..300 LOOP BEGIN UPDATE hot SET n = n + 1 WHERE id = 1; IF i % 3 = 0 THEN RAISE 'no'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
SELECT n FROM hot WHERE id = 1;
-- Changed key, back and forth: a new row each time.
DO $$ BEGIN FOR i IN 1..100 LOOP UPDATE hot SET id = id + 10; UPDATE hot SET id = id - 10; END LOOP; END $$;
SELECT * FROM hot ORDER BY id;
-- Insert, change, delete in one transaction, again and again.
BEGIN;
DO $$ BEGIN FOR i IN 1..50 LOOP INSERT INTO hot VALUES (3, i, 'x'); UPDATE hot SET n = -i WHERE id = 3; DELETE FROM hot WHERE id = 3; END LOOP; END $$;
INSERT INTO hot VALUES (3, 3, 'last');
COMMIT;
SELECT * FROM hot ORDER BY id;

-- A command sees what came before it, a cursor only what was there when it opened.
BEGIN;
INSERT INTO hot VALUES (4, 4, 'four');
DECLARE c CURSOR FOR SELECT id, n FROM hot ORDER BY id;
UPDATE hot SET n = 44 WHERE id = 4;
DELETE FROM hot WHERE id = 1;
INSERT INTO hot VALUES (5, 5, 'five');
FETCH ALL FROM c;
SELECT id, n FROM hot ORDER BY id;
COMMIT;
CREATE FUNCTION seen_by_volatile() RETURNS BIGINT LANGUAGE sql VOLATILE AS 'SELECT count(*) FROM dml.hot';
CREATE FUNCTION seen_by_stable() RETURNS BIGINT LANGUAGE sql STABLE AS 'SELECT count(*) FROM dml.hot';
CREATE TABLE seen (n INT, v BIGINT, s BIGINT);
BEGIN;
INSERT INTO hot SELECT 100 + i, seen_by_volatile(), seen_by_stable()::text FROM generate_series(1, 3) i;
SELECT id, n, pad FROM hot WHERE id > 100 ORDER BY id;
ROLLBACK;

-- Columns computed, dropped, added.
CREATE TABLE computed (a INT, b INT, total INT GENERATED ALWAYS AS (a + b) STORED, id INT GENERATED ALWAYS AS IDENTITY);
INSERT INTO computed (a, b) VALUES (1, 2), (3, 4);
UPDATE computed SET a = 10 WHERE id = 1;
UPDATE computed SET total = 1;
INSERT INTO computed (a, id) VALUES (1, 9);
ALTER TABLE computed DROP COLUMN b CASCADE;
ALTER TABLE computed ADD COLUMN c INT DEFAULT 7, ADD COLUMN d TEXT;
INSERT INTO computed (a) VALUES (5);
SELECT * FROM computed ORDER BY id;
UPDATE computed SET d = 'set' WHERE id = 1;
SELECT * FROM computed ORDER BY id;

-- Many rows: more than a page, more than a batch.
CREATE TABLE many AS SELECT i AS id, i % 7 AS g, repeat(chr(97 + i % 26), i % 50) AS s FROM generate_series(1, 20000) i;
SELECT count(*), sum(id), sum(length(s)), count(DISTINCT g) FROM many;
UPDATE many SET g = g + 1 WHERE id % 3 = 0;
DELETE FROM many WHERE id % 5 = 0;
SELECT g, count(*), sum(id), sum(length(s)) FROM many GROUP BY g ORDER BY g;
BEGIN;
DELETE FROM many;
SELECT count(*) FROM many;
ROLLBACK;
SELECT count(*), sum(id) FROM many;
DELETE FROM many WHERE id <= 19000;
INSERT INTO many SELECT i, 0, 'new' FROM generate_series(1, 100) i;
SELECT count(*), sum(id) FROM many;

-- Errors roll back the whole statement.
INSERT INTO t SELECT i, 1 / (5 - i), 'x' FROM generate_series(2001, 2010) i UNION ALL SELECT 1, 1 / 0, 'x';
INSERT INTO t SELECT CASE WHEN i = 2090 THEN 7 ELSE i END, 1, 'dup' FROM generate_series(2001, 2100) i;
UPDATE t SET id = 7;
SELECT count(*) FROM t WHERE id > 2000;
SELECT * FROM t ORDER BY id;
