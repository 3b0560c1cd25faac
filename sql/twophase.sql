-- Prepared transactions (over a crash: t/050_kill.pl).
CREATE SCHEMA twophase;
SET search_path = twophase;
CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
INSERT INTO t SELECT i, 0, 's' FROM generate_series(1, 6) i;
BEGIN;
INSERT INTO t VALUES (10, 10, 'prepared');
UPDATE t SET v = 1 WHERE id = 1;
UPDATE t SET id = 22 WHERE id = 2;
DELETE FROM t WHERE id = 3;
SELECT id FROM t WHERE id = 4 FOR UPDATE;
SAVEPOINT s;
UPDATE t SET v = 5 WHERE id = 5;
ROLLBACK TO s;
PREPARE TRANSACTION 'orbit one';
SELECT * FROM t ORDER BY id;
-- Its locks last.
SELECT id FROM t WHERE id = 4 FOR UPDATE NOWAIT;
SELECT id FROM t WHERE id IN (1, 2, 3, 5, 6) ORDER BY id FOR UPDATE SKIP LOCKED;
SELECT id FROM t WHERE id = 4 FOR KEY SHARE SKIP LOCKED;
\set SHOW_CONTEXT never
SET lock_timeout = '100ms';
UPDATE t SET v = 2 WHERE id = 1;
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (10, 0, 'blocked');
RESET lock_timeout;
-- The session that prepared it is gone.
\c -
SET search_path = twophase;
SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'orbit%' ORDER BY 1;
CHECKPOINT;
SELECT count(*) FROM t;
COMMIT PREPARED 'orbit one';
SELECT * FROM t ORDER BY id;
BEGIN;
DELETE FROM t;
INSERT INTO t VALUES (100, 100, 'never');
PREPARE TRANSACTION 'orbit two';
SELECT count(*) FROM t;
ROLLBACK PREPARED 'orbit two';
SELECT * FROM t ORDER BY id;
UPDATE t SET v = v + 1;
SELECT sum(v) FROM t;
-- Made, filled and dropped in prepared transactions.
BEGIN;
CREATE TABLE made (id INT PRIMARY KEY);
INSERT INTO made SELECT generate_series(1, 100);
PREPARE TRANSACTION 'orbit three';
COMMIT PREPARED 'orbit three';
SELECT count(*), sum(id) FROM made;
BEGIN;
TRUNCATE made;
INSERT INTO made VALUES (7);
PREPARE TRANSACTION 'orbit four';
ROLLBACK PREPARED 'orbit four';
SELECT count(*) FROM made;
BEGIN;
DROP TABLE made;
PREPARE TRANSACTION 'orbit five';
COMMIT PREPARED 'orbit five';
SELECT * FROM made;
SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'orbit%';
