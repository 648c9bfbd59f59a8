-- Seeing tokens without secrets: introspection, tokens in pasted text, the view of what is active.

SELECT public.temptoken_register_scope('files', ARRAY['GET /files/{id}'], '1 hour', '{id}');
SELECT public.temptoken_register_scope('plain', ARRAY['GET /plain'], '1 hour', max_uses => 1);
SELECT public.temptoken_register_scope('gone', ARRAY['GET /gone'], '1 hour');
SELECT public.temptoken_mint('files', '42', '1 hour', '{"a": 1}') AS active, public.temptoken_mint('files', '43', '1 hour') AS expired,
       public.temptoken_mint('plain', E'quote " slash ' || chr(92) || E' tab \t é', '1 hour') AS odd,
       public.temptoken_mint('plain', 'used', '1 hour') AS used_up, public.temptoken_mint('gone', 'x', '1 hour') AS unknown_scope,
       public.temptoken_mint('files', '44', '1 hour') AS deleted \gset
UPDATE temptoken.temp_tokens SET expires_at = now() - interval '1 second' WHERE resource_id = '43';
UPDATE temptoken.temp_tokens SET uses_left = 0 WHERE resource_id = 'used';
SELECT public.temptoken_unregister_scope('gone'), public.temptoken_delete(:'deleted');

-- RFC 7662: of an inactive token nothing but that.
SELECT public.temptoken_introspect(token)
FROM unnest(ARRAY[NULL, '', 'nonsense', :'expired', :'used_up', :'unknown_scope', :'deleted',
    overlay(:'active' PLACING 'ffff' FROM 90)]) AS token;
SELECT response - 'iat' - 'exp' - 'jti' AS response, (response ->> 'jti')::uuid = substr(:'active', 4, 32)::uuid AS jti,
       (response ->> 'exp')::bigint - (response ->> 'iat')::bigint BETWEEN 3599 AND 3601 AS lifetime,
       (response ->> 'iat')::bigint - extract(epoch FROM clock_timestamp())::bigint BETWEEN -60 AND 1 AS iat
FROM public.temptoken_introspect(:'active') AS response;
SELECT response ->> 'sub' = E'quote " slash ' || chr(92) || E' tab \t é' AS sub FROM public.temptoken_introspect(:'odd') AS response;
-- It spends nothing.
SELECT (public.temptoken_introspect(:'odd')) -> 'active' AS active FROM generate_series(1, 3);
SELECT uses_left FROM temptoken.temp_tokens WHERE resource_id LIKE 'quote%';

-- Tokens in a pasted log: each once, whatever stands around them.
SELECT id = substr(:'active', 4, 32)::uuid AS active_id, id = substr(:'expired', 4, 32)::uuid AS expired_id,
       id = substr(:'deleted', 4, 32)::uuid AS deleted_id, known, active
FROM public.temptoken_find_tokens('GET /files/42?token=' || :'active' || '&x=1 "' || :'active' || '"' || E'\n'
    || 'mail: <https://host/' || :'expired' || '>, other_prefix_' || substr(:'deleted', 4) || E'\n'
    || 'wrong secret ' || overlay(:'active' PLACING 'ffff' FROM 90) || ' short ' || left(:'active', 98));
SELECT count(*) FROM public.temptoken_find_tokens(NULL);
SELECT count(*) FROM public.temptoken_find_tokens('');
SELECT count(*) FROM public.temptoken_find_tokens(repeat('_', 100000) || repeat('0', 100000));
SELECT count(*) FROM public.temptoken_find_tokens(:'active' || :'expired');
-- An incident ends with one statement.
SELECT count(*) FILTER (WHERE public.temptoken_delete_by_id(id)) AS deleted
FROM public.temptoken_find_tokens('leaked: ' || :'active' || ' ' || :'odd') WHERE known;

-- The view: what is active, and no hash.
SELECT public.temptoken_mint('files', '45', '1 hour', '{"b": 2}') IS NOT NULL AS minted;
SELECT scope, resource_id, expires_at > created_at AS expires, uses_left, metadata FROM temptoken.active_tokens;
SELECT attname FROM pg_attribute WHERE attrelid = 'temptoken.active_tokens'::regclass AND attnum > 0 ORDER BY attnum;

DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
