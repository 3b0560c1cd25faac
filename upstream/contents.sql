-- A statement for each permanent table of the database: its rows, and a sum over them in which neither their order
-- counts nor that of the columns, which a dump of inherited tables may change.  :kinds are of relations: r tables,
-- m materialized views.
SELECT format('SELECT %L, count(*), coalesce(sum(hashtextextended(ROW(%s)::text, 0)::numeric), 0) FROM ONLY %s;',
              c.oid::regclass,
              (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attname)
               FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped),
              c.oid::regclass)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = ANY (string_to_array(:'kinds', ' ')::"char"[]) AND c.relpersistence = 'p' AND c.relispopulated
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY n.nspname, c.relname;
