-- INSERT ... ON CONFLICT in one session (races: specs/orbit_conflict_*).
CREATE SCHEMA onconflict;
SET search_path = onconflict;
CREATE TABLE t (id INT PRIMARY KEY, k TEXT UNIQUE, v INT DEFAULT 0);
INSERT INTO t VALUES (1, 'a', 1) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (1, 'b', 1) ON CONFLICT DO NOTHING RETURNING *;
INSERT INTO t VALUES (2, 'a', 1) ON CONFLICT DO NOTHING;
INSERT INTO t VALUES (1, 'z', 5) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING *, xmax <> 0 AS updated;
INSERT INTO t VALUES (2, 'b', 5) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v RETURNING *, xmax <> 0 AS updated;
INSERT INTO t VALUES (3, 'a', 7) ON CONFLICT (k) DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO t VALUES (3, 'b', 7) ON CONFLICT (id) DO UPDATE SET v = 8;
INSERT INTO t VALUES (3, 'b', 7) ON CONFLICT (id) DO UPDATE SET k = 'b';
INSERT INTO t VALUES (3, 'c', 9) ON CONFLICT ON CONSTRAINT t_pkey DO UPDATE SET v = 99 WHERE t.v > 1000 RETURNING *;
INSERT INTO t VALUES (3, 'c', 9) ON CONFLICT (v) DO NOTHING;
SELECT * FROM t ORDER BY id;
-- Twice in one command.
INSERT INTO t VALUES (10, 'x', 1), (10, 'y', 2) ON CONFLICT (id) DO NOTHING RETURNING *;
INSERT INTO t VALUES (11, 'p', 1), (11, 'q', 2) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
SELECT * FROM t ORDER BY id;
-- A conflict with an earlier command of the same transaction, and with what was rolled back.
BEGIN;
INSERT INTO t VALUES (20, 'tw', 1);
INSERT INTO t VALUES (20, 'tx', 2) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v;
INSERT INTO t VALUES (20, 'tx', 2) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v;
SAVEPOINT s;
DELETE FROM t WHERE id = 20;
INSERT INTO t VALUES (20, 'ty', 100) ON CONFLICT (id) DO NOTHING;
SELECT * FROM t WHERE id = 20;
ROLLBACK TO s;
INSERT INTO t VALUES (20, 'tz', 10) ON CONFLICT (id) DO UPDATE SET v = t.v + excluded.v, k = excluded.k;
COMMIT;
SELECT * FROM t WHERE id = 20;
-- Partial and expression indexes.
CREATE TABLE p (id INT, email TEXT, live BOOLEAN);
CREATE UNIQUE INDEX p_lower ON p (lower(email)) WHERE live;
INSERT INTO p VALUES (1, 'A@x', true), (2, 'a@X', false);
INSERT INTO p VALUES (3, 'a@x', true) ON CONFLICT (lower(email)) WHERE live DO UPDATE SET id = excluded.id RETURNING *;
INSERT INTO p VALUES (4, 'a@x', false) ON CONFLICT (lower(email)) WHERE live DO NOTHING RETURNING *;
INSERT INTO p VALUES (5, 'a@x', true) ON CONFLICT (lower(email)) DO NOTHING;
SELECT * FROM p ORDER BY id;
-- Many.
CREATE TABLE counts (k INT PRIMARY KEY, n INT);
INSERT INTO counts SELECT i, 1 FROM generate_series(1, 1000) i;
INSERT INTO counts SELECT i, 1 FROM generate_series(500, 1500) i ON CONFLICT (k) DO UPDATE SET n = counts.n + 1;
DO $$ BEGIN FOR i IN 1..2000 LOOP INSERT INTO onconflict.counts VALUES (i % 50, 1) ON CONFLICT (k) DO UPDATE SET n = counts.n + excluded.n; END LOOP; END $$;
SELECT count(*), sum(n), min(n), max(n) FROM counts;
-- Exclusion constraints take DO NOTHING only.
CREATE TABLE ex (r INT4RANGE, EXCLUDE USING gist (r WITH &&));
INSERT INTO ex VALUES ('[1,5)');
INSERT INTO ex VALUES ('[3,9)') ON CONFLICT DO NOTHING;
INSERT INTO ex VALUES ('[5,9)') ON CONFLICT ON CONSTRAINT ex_r_excl DO NOTHING;
SELECT * FROM ex ORDER BY r;
