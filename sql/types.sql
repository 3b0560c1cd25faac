-- Every kind of column keeps its value: fixed, short, long, null, by value and by reference.
CREATE SCHEMA types;
SET search_path = types;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';
SET intervalstyle = 'postgres';

CREATE TABLE numbers (id SERIAL PRIMARY KEY, i2 SMALLINT, i4 INTEGER, i8 BIGINT, n NUMERIC, n2 NUMERIC(12,4), f4 REAL, f8 DOUBLE PRECISION, m OID);
INSERT INTO numbers (i2, i4, i8, n, n2, f4, f8, m) VALUES
  (0, 0, 0, 0, 0, 0, 0, 0),
  (32767, 2147483647, 9223372036854775807, 1e100, 99999999.9999, 3.4e38, 1.7e308, 4294967295),
  (-32768, -2147483648, -9223372036854775808, -1e-100, -99999999.9999, -3.4e38, -1.7e308, 1),
  (NULL, NULL, NULL, 'NaN', NULL, 'NaN', 'Infinity', NULL),
  (1, NULL, 2, 'Infinity', 3.14159, '-Infinity', -0.0, NULL);
SELECT * FROM numbers ORDER BY id;
INSERT INTO numbers (i2) VALUES (40000);
INSERT INTO numbers (n2) VALUES (100000000);

CREATE TABLE texts (id BIGSERIAL PRIMARY KEY, t TEXT, v VARCHAR(5), c CHAR(5), n NAME, q "char", b BYTEA, bi BIT(4), bv BIT VARYING(9));
INSERT INTO texts (t, v, c, n, q, b, bi, bv) VALUES
  ('', '', '', '', '', '', '0000', ''),
  ('ünï ☃ 𝄞', 'äöüßé', 'ab', 'name', 'x', '\x00ff00', '1010', '101010101'),
  (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
  (repeat('x', 300), '12345', '12345', repeat('n', 63), 'z', decode(repeat('ab', 130), 'hex'), '1111', '1');
SELECT id, length(t), left(t, 10) AS t, v, c, left(n, 10) AS n, q, length(b), left(b::text, 10) AS b, bi, bv FROM texts ORDER BY id;
INSERT INTO texts (v) VALUES ('123456');
INSERT INTO texts (v) VALUES ('12345   ') RETURNING v, length(v);

CREATE TABLE others (id INT PRIMARY KEY, ok BOOLEAN, j JSON, jb JSONB, u UUID, ts TIMESTAMP, tz TIMESTAMPTZ, d DATE, t TIME, ttz TIMETZ, iv INTERVAL, ip INET, ci CIDR, mac MACADDR, m MONEY, x XML, tv TSVECTOR, tq TSQUERY);
INSERT INTO others VALUES
  (1, true, '{"a":1,  "a":2}', '{"b":[1,{"c":null}],"a":1,"a":2}', 'a0eebc999c0b4ef8bb6d6bb9bd380a11', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56+02', '2024-02-29', '23:59:59.999999', '12:00+02', '1 year 2 mons 3 days 04:05:06', '192.168.1.5/24', '10.0.0.0/8', '08:00:2b:01:02:03', 12.5, NULL, 'a fat cat', 'fat & cat'),
  (2, false, 'null', 'null', NULL, 'infinity', '-infinity', 'infinity', '00:00', '00:00+00', '-1 day', '::1', '::/0', NULL, -1, NULL, '', ''),
  (3, NULL, NULL, NULL, NULL, '0044-03-15 12:00 BC', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
\pset expanded on
SELECT * FROM others ORDER BY id;
\pset expanded off
SELECT jb -> 'b' -> 1 ->> 'c' IS NULL AS n, jb @> '{"a": 2}' AS has, j ->> 'a' AS a FROM others WHERE id = 1;

CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a INT, b TEXT);
CREATE DOMAIN positive AS INT CHECK (VALUE > 0);
CREATE TABLE composed (id INT PRIMARY KEY, a INT[], a2 TEXT[][], e mood, p pair, ps pair[], d positive, r INT4RANGE, mr INT4MULTIRANGE, pt POINT, bx BOX, pg POLYGON);
INSERT INTO composed VALUES
  (1, '{1,2,NULL,4}', '{{a,b},{c,"d e"}}', 'ok', (1, 'one'), ARRAY[(2, 'two')::pair, NULL, (NULL, NULL)::pair], 5, '[1,5)', '{[1,3),[5,7)}', '(1,2)', '(3,4),(1,2)', '((0,0),(1,1),(1,0))'),
  (2, '{}', NULL, NULL, NULL, NULL, NULL, 'empty', '{}', NULL, NULL, NULL),
  (3, '[5:6]={50,60}', NULL, 'happy', ROW(NULL, 'x'), '{}', 1, '(,)', NULL, NULL, NULL, NULL);
SELECT * FROM composed ORDER BY id;
UPDATE composed SET a[2] = 20, p.b = 'uno', e = 'sad', r = r * '[2,9)' WHERE id = 1;
UPDATE composed SET a = a || 7, ps[3] = (3, 'three')::pair WHERE id = 1;
SELECT a, p, (p).b, e, r, ps FROM composed WHERE id = 1;
INSERT INTO composed (id, d) VALUES (4, -1);
SELECT id FROM composed ORDER BY e NULLS FIRST, id;

-- Rows as values, whole rows, and rows of a table type inside a table.
CREATE TABLE nested (id INT, c composed);
INSERT INTO nested SELECT id, composed FROM composed WHERE id < 3;
SELECT id, (c).a, (c).p, (c).d FROM nested ORDER BY id;
SELECT composed FROM composed WHERE id = 2;
SELECT count(*), count(c) FROM nested;

-- 1,600 columns are the limit, null bitmaps grow with them.
DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE types.wide (' || string_agg('c' || i || ' INT', ', ') || ')' FROM generate_series(1, 1600) i); END $$;
INSERT INTO wide (c1, c800, c1600) VALUES (1, 800, 1600), (NULL, NULL, NULL);
UPDATE wide SET c2 = 2, c1599 = 1599 WHERE c1 = 1;
SELECT c1, c2, c3, c800, c1599, c1600 FROM wide ORDER BY c1 NULLS LAST;
CREATE TABLE empty_row ();
INSERT INTO empty_row DEFAULT VALUES;
INSERT INTO empty_row DEFAULT VALUES;
SELECT count(*) FROM empty_row;
