-- 200,000 calls, whatever the number of tokens: each of a token picked at random. The hash is what the usual table keeps.
INSERT INTO bench.calls
SELECT row_number() OVER (), substr(token, 4, 32)::uuid, token, '/files/' || resource_id,
    encode(sha256(convert_to(token, 'UTF8')), 'hex')
FROM (
    SELECT m.token, m.resource_id
    FROM (SELECT 1 + floor(random() * (SELECT count(*) FROM bench.minted))::integer AS n
          FROM generate_series(1, 200000)) AS pick
    JOIN bench.minted AS m USING (n)
    ORDER BY random()
) AS picked;
CREATE INDEX ON bench.calls (n);

-- 10,000 more, of the tokens that were minted last: what a service does most of the time.
CREATE UNLOGGED TABLE bench.latest AS
SELECT row_number() OVER () AS n, token, '/files/' || resource_id AS path
FROM (
    SELECT token, resource_id FROM bench.minted
    WHERE n > (SELECT count(*) FROM bench.minted) - 10000
    ORDER BY random()
) AS picked;
CREATE INDEX ON bench.latest (n);

-- How large the database is while it holds nothing but the tokens that it was filled with.
CREATE TABLE bench.bytes AS
SELECT pg_relation_size('temptoken.temp_tokens') AS in_table,
    pg_relation_size('temptoken.temp_tokens_pkey') AS primary_key,
    pg_relation_size('temptoken.temp_tokens_scope_resource_id_idx') AS other_index;
