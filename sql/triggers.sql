-- Every kind of trigger, with the rows it is given.
CREATE SCHEMA triggers;
SET search_path = triggers;

CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
CREATE TABLE log (n SERIAL, what TEXT);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO triggers.log (what) VALUES (format('%s %s %s: old=%s new=%s', TG_WHEN, TG_OP, TG_LEVEL,
    CASE WHEN TG_LEVEL = 'ROW' AND TG_OP IN ('UPDATE', 'DELETE') THEN OLD::text END,
    CASE WHEN TG_LEVEL = 'ROW' AND TG_OP IN ('UPDATE', 'INSERT') THEN NEW::text END));
  IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER a_stmt_before BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note();
CREATE TRIGGER b_row_before BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER c_row_after AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER d_stmt_after AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON t FOR EACH STATEMENT EXECUTE FUNCTION note();
INSERT INTO t VALUES (1, 10, 'a'), (2, 20, 'b');
UPDATE t SET v = v + 1;
UPDATE t SET id = id + 10 WHERE id = 2;
DELETE FROM t WHERE id = 1;
INSERT INTO t VALUES (12, 99, 'conflict') ON CONFLICT (id) DO UPDATE SET v = excluded.v, s = t.s || '!';
TRUNCATE t;
SELECT what FROM log ORDER BY n;
TRUNCATE log;
-- Several changes of one row in one transaction: each event has its own pair.
BEGIN;
INSERT INTO t VALUES (1, 1, 'x');
UPDATE t SET v = 2;
UPDATE t SET v = 3;
DELETE FROM t;
COMMIT;
SELECT what FROM log WHERE what LIKE 'AFTER % ROW%' ORDER BY n;
DROP TABLE t;
TRUNCATE log;

-- BEFORE triggers change or refuse rows, and may change the table themselves.
CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.v < 0 THEN RETURN NULL; END IF;
  NEW.s := coalesce(NEW.s, '') || '+';
  RETURN NEW;
END $$;
CREATE TRIGGER change BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION change();
INSERT INTO t VALUES (1, 1), (2, -2), (3, 3);
UPDATE t SET v = CASE id WHEN 1 THEN 11 ELSE -1 END;
SELECT * FROM t ORDER BY id;
CREATE FUNCTION self_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE triggers.t SET s = 'by trigger' WHERE id = OLD.id;
  RETURN OLD;
END $$;
CREATE TRIGGER self_change BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION self_change();
DELETE FROM t WHERE id = 1;
SELECT * FROM t ORDER BY id;
DROP TABLE t;

-- WHEN, column lists, and a trigger that is off.
CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
CREATE TRIGGER of_v AFTER UPDATE OF v ON t FOR EACH ROW WHEN (OLD.v IS DISTINCT FROM NEW.v) EXECUTE FUNCTION note();
INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b');
UPDATE t SET v = v;
UPDATE t SET s = 'c';
UPDATE t SET v = v + id - 1;
ALTER TABLE t DISABLE TRIGGER of_v;
UPDATE t SET v = 100;
ALTER TABLE t ENABLE TRIGGER of_v;
SELECT what FROM log ORDER BY n;
TRUNCATE log;
DROP TABLE t;

-- Transition tables.
CREATE TABLE t (id INT PRIMARY KEY, v INT);
CREATE FUNCTION sums() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE o TEXT; n TEXT;
BEGIN
  IF TG_OP <> 'INSERT' THEN SELECT string_agg(format('%s:%s', id, v), ' ' ORDER BY id) INTO o FROM old_rows; END IF;
  IF TG_OP <> 'DELETE' THEN SELECT string_agg(format('%s:%s', id, v), ' ' ORDER BY id) INTO n FROM new_rows; END IF;
  RAISE NOTICE '% old % new %', TG_OP, o, n;
  RETURN NULL;
END $$;
CREATE TRIGGER ins AFTER INSERT ON t REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sums();
CREATE TRIGGER upd AFTER UPDATE ON t REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION sums();
CREATE TRIGGER del AFTER DELETE ON t REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION sums();
INSERT INTO t VALUES (1, 10), (2, 20), (3, 30);
UPDATE t SET v = v * 2 WHERE id < 3;
UPDATE t SET id = id + 10;
INSERT INTO t VALUES (12, 0), (9, 90) ON CONFLICT (id) DO UPDATE SET v = -1;
WITH d AS (DELETE FROM t WHERE id = 12 RETURNING *) INSERT INTO t SELECT id + 100, v FROM d;
DELETE FROM t;
COPY t FROM stdin;
5	50
6	60
\.
DROP TABLE t;

-- Deferred constraint triggers see each event's own rows at the end.
CREATE TABLE t (id INT PRIMARY KEY, v INT, s TEXT);
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE OR DELETE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
BEGIN;
INSERT INTO t VALUES (1, 1, 'a');
UPDATE t SET v = 2;
UPDATE t SET v = 3;
UPDATE t SET id = 4;
SAVEPOINT s;
UPDATE t SET v = 1000;
ROLLBACK TO s;
SELECT count(*) FROM log;
DELETE FROM t;
COMMIT;
SELECT what FROM log ORDER BY n;
TRUNCATE log;
BEGIN;
INSERT INTO t VALUES (1, 1, 'a');
SET CONSTRAINTS deferred IMMEDIATE;
SELECT what FROM log ORDER BY n;
ROLLBACK;
-- Many deferred events on few rows, with rows wide enough for toast.
INSERT INTO t SELECT i, 0, repeat(md5(i::text), 200) FROM generate_series(1, 3) i;
TRUNCATE log;
BEGIN;
DO $$ BEGIN FOR i IN 1..200 LOOP UPDATE triggers.t SET v = v + 1; END LOOP; END $$;
COMMIT;
SELECT count(*), count(DISTINCT what), sum(length(what)) FROM log;
DROP TABLE t;
TRUNCATE log;

-- INSTEAD OF on a view, and an update through it.
CREATE TABLE base (id INT PRIMARY KEY, v INT);
CREATE VIEW vw AS SELECT id, v AS val FROM base;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN INSERT INTO triggers.base VALUES (NEW.id, NEW.val * 2); RETURN NEW; END IF;
  IF TG_OP = 'UPDATE' THEN UPDATE triggers.base SET v = NEW.val WHERE id = OLD.id; RETURN NEW; END IF;
  DELETE FROM triggers.base WHERE id = OLD.id; RETURN OLD;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE OR DELETE ON vw FOR EACH ROW EXECUTE FUNCTION instead();
INSERT INTO vw VALUES (1, 5), (2, 6);
UPDATE vw SET val = val + 1 WHERE id = 1 RETURNING *;
DELETE FROM vw WHERE id = 2 RETURNING *;
SELECT * FROM base;

-- A trigger that fails takes its statement with it.
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused %', NEW; END $$;
CREATE TRIGGER refuse AFTER INSERT ON base FOR EACH ROW WHEN (NEW.v > 100) EXECUTE FUNCTION refuse();
INSERT INTO base VALUES (5, 50), (6, 600);
SELECT * FROM base ORDER BY id;
