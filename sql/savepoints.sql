-- Transactions and subtransactions: what a rollback takes back, and what it leaves.
CREATE SCHEMA savepoints;
SET search_path = savepoints;
CREATE TABLE t (id INT PRIMARY KEY, v INT);
INSERT INTO t SELECT i, 0 FROM generate_series(1, 5) i;

BEGIN;
UPDATE t SET v = 1 WHERE id = 1;
SAVEPOINT a;
UPDATE t SET v = 2 WHERE id = 1;
INSERT INTO t VALUES (6, 6);
DELETE FROM t WHERE id = 2;
SAVEPOINT b;
UPDATE t SET v = 3, id = 10 WHERE id = 1;
DELETE FROM t WHERE id = 6;
SELECT * FROM t ORDER BY id;
ROLLBACK TO b;
SELECT * FROM t ORDER BY id;
ROLLBACK TO a;
SELECT * FROM t ORDER BY id;
UPDATE t SET v = 4 WHERE id = 2;
RELEASE a;
COMMIT;
SELECT * FROM t ORDER BY id;

-- The same row again and again over the same savepoint.
BEGIN;
SAVEPOINT a;
UPDATE t SET v = 100 WHERE id = 3;
ROLLBACK TO a;
UPDATE t SET v = 200 WHERE id = 3;
ROLLBACK TO a;
DELETE FROM t WHERE id = 3;
ROLLBACK TO a;
SELECT * FROM t WHERE id = 3;
SELECT * FROM t WHERE id = 3 FOR UPDATE;
ROLLBACK TO a;
UPDATE t SET v = 300 WHERE id = 3;
COMMIT;
SELECT * FROM t WHERE id = 3;

-- A key freed in a subtransaction, used in its parent, and the reverse.
BEGIN;
SAVEPOINT a;
DELETE FROM t WHERE id = 4;
RELEASE a;
INSERT INTO t VALUES (4, 44);
SAVEPOINT b;
INSERT INTO t VALUES (4, 45);
ROLLBACK TO b;
DELETE FROM t WHERE id = 4;
INSERT INTO t VALUES (4, 46);
ROLLBACK TO b;
COMMIT;
SELECT * FROM t WHERE id = 4;

-- A failed statement in a subtransaction.
BEGIN;
INSERT INTO t VALUES (7, 7);
SAVEPOINT a;
INSERT INTO t VALUES (8, 8), (7, 0);
ROLLBACK TO a;
INSERT INTO t VALUES (8, 8);
COMMIT;
SELECT * FROM t ORDER BY id;

-- More subtransactions than a snapshot keeps (64), half of them rolled back.
CREATE TABLE many (id INT PRIMARY KEY, v INT);
DO $$
BEGIN
  FOR i IN 1..300 LOOP
    BEGIN
      INSERT INTO savepoints.many VALUES (i, i);
      UPDATE savepoints.many SET v = v + 1 WHERE id = i / 2;
      IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
  END LOOP;
END $$;
SELECT count(*), sum(id), sum(v) FROM many;

-- Deeply nested.
CREATE FUNCTION nest(n INT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO savepoints.many VALUES (1000 + n, 0);
  IF n > 0 THEN PERFORM savepoints.nest(n - 1); END IF;
  UPDATE savepoints.many SET v = v + 1 WHERE id >= 1000;
  IF n % 10 = 5 THEN RAISE 'back'; END IF;
EXCEPTION WHEN raise_exception THEN
  UPDATE savepoints.many SET v = v - 1 WHERE id >= 1000;
END $$;
SELECT nest(40);
SELECT count(*), sum(id), sum(v) FROM many WHERE id >= 1000;

-- A lock taken in a subtransaction that was rolled back does not last.
BEGIN;
SELECT v FROM t WHERE id = 5 FOR SHARE;
SAVEPOINT a;
SELECT v FROM t WHERE id = 5 FOR UPDATE;
ROLLBACK TO a;
UPDATE t SET v = 55 WHERE id = 5;
COMMIT;
SELECT * FROM t WHERE id = 5;

-- An error ends the transaction, chained transactions, read only.
BEGIN;
INSERT INTO t VALUES (9, 9);
SELECT 1 / 0;
INSERT INTO t VALUES (10, 10);
COMMIT;
SELECT count(*) FROM t WHERE id = 9;
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO t VALUES (9, 9);
COMMIT AND CHAIN;
SHOW transaction_isolation;
INSERT INTO t VALUES (11, 11);
ROLLBACK;
BEGIN READ ONLY;
INSERT INTO t VALUES (12, 12);
ROLLBACK;
SELECT * FROM t ORDER BY id;

-- Procedures that commit while a loop over the table runs.
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$
DECLARE r RECORD;
BEGIN
  FOR r IN SELECT id FROM savepoints.t ORDER BY id LOOP
    UPDATE savepoints.t SET v = v + 1000 WHERE id = r.id;
    IF r.id % 2 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
  END LOOP;
END $$;
CALL commits();
SELECT * FROM t ORDER BY id;
