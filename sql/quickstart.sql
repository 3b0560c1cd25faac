-- What a newcomer tries first.
CREATE SCHEMA quickstart;
SET search_path = quickstart;
SET timezone = 'UTC';
SET datestyle = 'ISO, YMD';

CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT,
    created_at TIMESTAMP DEFAULT NOW()
);
INSERT INTO users (id, name, email) VALUES
    (1, 'Alice', 'alice@example.com'),
    (2, 'Bob', 'bob@example.com'),
    (3, 'Charlie', 'charlie@example.com');
SELECT id, name, email, created_at <= clock_timestamp() AS created FROM users ORDER BY id;
UPDATE users SET created_at = '2024-01-02 03:04:05';
SELECT * FROM users ORDER BY id;

CREATE TABLE IF NOT EXISTS products (id SERIAL PRIMARY KEY, name VARCHAR(20), price NUMERIC(10,2), stock INT DEFAULT 0);
INSERT INTO products (name, price, stock) VALUES ('Laptop', 1299.99, 10), ('Phone', 899, 25), ('Workstation', 2499.5, 3), ('Cable', 9.95, 500);
SELECT * FROM products WHERE price > 1000 ORDER BY id;
SELECT name, price FROM products ORDER BY price DESC;
UPDATE products SET price = 1199.99 WHERE name = 'Laptop';
UPDATE products SET price = 849, stock = stock - 1 WHERE name = 'Phone';
DELETE FROM products WHERE name = 'Cable';
SELECT * FROM products ORDER BY id;
CREATE TABLE IF NOT EXISTS products (other INT);
DROP TABLE IF EXISTS nothing_here;
DROP TABLE IF EXISTS products;
SELECT * FROM products;

-- Errors are those of any table.
INSERT INTO users VALUES (1, 'Again');
INSERT INTO users VALUES (4, NULL, NULL, NULL);
INSERT INTO users VALUES ('x', 'y');
SELECT nothing FROM users;
SELECT count(*) FROM users;
