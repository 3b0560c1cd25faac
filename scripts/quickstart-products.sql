CREATE TABLE IF NOT EXISTS products (
    id SERIAL PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    price NUMERIC(10, 2) NOT NULL,
    stock INTEGER DEFAULT 0,
    in_sale BOOLEAN DEFAULT false
);
INSERT INTO products (name, price, stock) VALUES
    ('Laptop', 1299.99, 10),
    ('Phone', 899.00, 25),
    ('Workstation', 2499.50, 3),
    ('Cable', 9.95, 500);
SELECT * FROM products WHERE price > 1000 ORDER BY id;
SELECT name, price FROM products ORDER BY price DESC;
UPDATE products SET price = 1199.99 WHERE name = 'Laptop';
UPDATE products SET stock = stock - 1, in_sale = true WHERE name = 'Phone';
DELETE FROM products WHERE name = 'Cable';
SELECT * FROM products ORDER BY id;
CREATE TABLE IF NOT EXISTS products (id INTEGER);
CREATE TABLE quickstart_scratch (note TEXT);
DROP TABLE IF EXISTS quickstart_scratch;
DROP TABLE IF EXISTS quickstart_scratch;
