CREATE TABLE types (
    id BIGINT PRIMARY KEY,
    serial_no SERIAL,
    small SMALLINT,
    label VARCHAR(20),
    body TEXT,
    ok BOOLEAN,
    doc JSON,
    docb JSONB,
    seen TIMESTAMP,
    seen_tz TIMESTAMP WITH TIME ZONE,
    amount NUMERIC(20, 6),
    token UUID,
    raw BYTEA,
    numbers INTEGER[],
    words TEXT[]
);
INSERT INTO types (id, small, label, body, ok, doc, docb, seen, seen_tz, amount, token, raw, numbers, words)
VALUES (9007199254740993, 7, 'first', repeat('orbit ', 3), true,
    '{"a": 1, "a": 2}', '{"b": [1, 2, {"c": null}]}',
    '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+02',
    12345678901234.567891, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
    '\xdeadbeef', '{1, 2, NULL, 4}', '{"one", "two words"}');
\pset expanded on
SELECT * FROM types;
\pset expanded off
SELECT docb -> 'b' -> 2 AS element, numbers[4] AS fourth, length(raw) AS bytes FROM types;
