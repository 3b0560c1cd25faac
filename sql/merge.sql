-- MERGE.
CREATE SCHEMA merge;
SET search_path = merge;
CREATE TABLE target (id INT PRIMARY KEY, v INT, note TEXT);
CREATE TABLE source (id INT, v INT);
INSERT INTO target SELECT i, i * 10, 'old' FROM generate_series(1, 6) i;
INSERT INTO source VALUES (2, 1), (3, NULL), (4, 400), (7, 70), (8, NULL);
MERGE INTO target t USING source s ON t.id = s.id
  WHEN MATCHED AND s.v IS NULL THEN DELETE
  WHEN MATCHED AND s.v > 100 THEN DO NOTHING
  WHEN MATCHED THEN UPDATE SET v = t.v + s.v, note = 'merged'
  WHEN NOT MATCHED AND s.v IS NOT NULL THEN INSERT VALUES (s.id, s.v, 'new')
  WHEN NOT MATCHED THEN DO NOTHING;
SELECT * FROM target ORDER BY id;
-- A row matched twice.
INSERT INTO source VALUES (2, 5);
MERGE INTO target t USING source s ON t.id = s.id WHEN MATCHED THEN UPDATE SET v = 0;
SELECT * FROM target WHERE id = 2;
-- Changed keys, subqueries, and triggers' OLD and NEW.
CREATE FUNCTION show() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% % -> %', TG_OP, OLD, NEW; RETURN NULL; END $$;
CREATE TRIGGER show AFTER INSERT OR UPDATE OR DELETE ON target FOR EACH ROW EXECUTE FUNCTION show();
MERGE INTO target t USING (VALUES (1, 101), (5, 105), (9, 109)) s (id, nid) ON t.id = s.id
  WHEN MATCHED AND t.id = 5 THEN UPDATE SET id = s.nid
  WHEN MATCHED THEN UPDATE SET note = 'touched'
  WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.nid, (SELECT max(v) FROM target));
MERGE INTO target t USING source s ON false WHEN NOT MATCHED AND s.id = 8 THEN INSERT VALUES (s.id);
SELECT * FROM target ORDER BY id;
-- A duplicate fails as a whole.
MERGE INTO target t USING (VALUES (201), (101)) s (id) ON t.id = s.id + 1000 WHEN NOT MATCHED THEN INSERT VALUES (s.id);
MERGE INTO target t USING (VALUES (301), (1)) s (id) ON t.id = s.id + 1000 WHEN NOT MATCHED THEN INSERT VALUES (s.id);
SELECT count(*) FROM target;
-- Many rows, under each join.
CREATE TABLE big (id INT PRIMARY KEY, n INT);
INSERT INTO big SELECT i, 0 FROM generate_series(1, 2000) i;
SET enable_hashjoin = off;
MERGE INTO big b USING generate_series(1, 4000, 2) s (id) ON b.id = s.id WHEN MATCHED THEN UPDATE SET n = n + 1 WHEN NOT MATCHED THEN INSERT VALUES (s.id, 100);
RESET enable_hashjoin;
SET enable_mergejoin = off;
MERGE INTO big b USING generate_series(1, 4000, 2) s (id) ON b.id = s.id WHEN MATCHED AND n = 100 THEN DELETE WHEN MATCHED THEN UPDATE SET n = n + 1, id = -b.id;
RESET enable_mergejoin;
SELECT count(*), sum(id), sum(n) FROM big;
