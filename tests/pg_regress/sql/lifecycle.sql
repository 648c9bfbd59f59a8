-- A resource's tokens end in the transaction that ends the resource.

SELECT public.temptoken_register_scope('flows', ARRAY['GET /flows/{id}'], '1 hour', '{id}');
CREATE TABLE public.regress_flow (id text, num integer, small smallint, big bigint, uid uuid, name varchar(20), stamp timestamptz,
    state text DEFAULT 'open');
CREATE TRIGGER ended AFTER DELETE ON public.regress_flow
    FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
CREATE TRIGGER closed AFTER UPDATE ON public.regress_flow
    FOR EACH ROW WHEN (NEW.state = 'closed' OR NEW.id <> OLD.id)
    EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
CREATE FUNCTION pg_temp.left_over() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(resource_id, ' ' ORDER BY resource_id) FROM temptoken.temp_tokens
$$;

INSERT INTO public.regress_flow (id) VALUES ('a'), ('b'), ('c'), ('d'), (NULL);
SELECT count(*) FROM public.temptoken_mint_many('flows', '{a,a,b,c,d}', '1 hour');
DELETE FROM public.regress_flow WHERE id = 'a';
SELECT pg_temp.left_over();
UPDATE public.regress_flow SET state = 'waiting' WHERE id = 'b';
SELECT pg_temp.left_over();
UPDATE public.regress_flow SET state = 'closed' WHERE id = 'b';
SELECT pg_temp.left_over();
-- The value before the change counts.
UPDATE public.regress_flow SET id = 'd2' WHERE id = 'd';
SELECT pg_temp.left_over();
-- Both or neither.
BEGIN;
DELETE FROM public.regress_flow WHERE id = 'c';
SELECT pg_temp.left_over();
ROLLBACK;
SELECT pg_temp.left_over();
-- NULL is no resource, and an empty text is none: tokens without a resource stay.
DELETE FROM public.regress_flow WHERE id IS NULL;
SELECT pg_temp.left_over();
BEGIN;
SELECT public.temptoken_register_scope('links', ARRAY['GET /links'], '1 hour');
SELECT length(public.temptoken_mint('links', '', '1 hour'));
CREATE TRIGGER ended_link AFTER DELETE ON public.regress_flow
    FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('links', 'id');
INSERT INTO public.regress_flow (id) VALUES ('');
DELETE FROM public.regress_flow WHERE id = '';
SELECT count(*) FROM temptoken.temp_tokens WHERE scope = 'links';
ROLLBACK;

-- A role that may change the table needs no other right.
CREATE ROLE regress_app;
GRANT SELECT, DELETE ON public.regress_flow TO regress_app;
\c -
SET ROLE regress_app;
DELETE FROM public.regress_flow WHERE id = 'c';
RESET ROLE;
SELECT count(*) FROM temptoken.temp_tokens;

-- The owner of the table needs the privilege, not only when the trigger is made.
ALTER TABLE public.regress_flow OWNER TO regress_app;
SELECT length(public.temptoken_mint('flows', 'd2', '1 hour'));
SET ROLE regress_app;
DELETE FROM public.regress_flow WHERE id = 'd2';
RESET ROLE;
SELECT public.temptoken_grant('regress_app', 'issue');
DELETE FROM public.regress_flow WHERE id = 'd2';
SELECT count(*) FROM temptoken.temp_tokens;
-- So does the owner of a table that this one is a partition of, whose trigger it has.
CREATE TABLE public.regress_flows (id text) PARTITION BY LIST (id);
CREATE TRIGGER ended AFTER DELETE ON public.regress_flows
    FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
ALTER TABLE public.regress_flows OWNER TO regress_app;
CREATE TABLE public.regress_flow_e PARTITION OF public.regress_flows FOR VALUES IN ('e');
SELECT length(public.temptoken_mint('flows', 'e', '1 hour'));
INSERT INTO public.regress_flows VALUES ('e'), ('e');
SELECT public.temptoken_revoke_grant('regress_app', 'issue');
DELETE FROM public.regress_flows;
SELECT count(*) FROM temptoken.temp_tokens;
ALTER TABLE public.regress_flows OWNER TO current_user;
DELETE FROM public.regress_flows;
SELECT count(*) FROM temptoken.temp_tokens;
DROP TABLE public.regress_flows;
ALTER TABLE public.regress_flow OWNER TO current_user;

-- Column types, whatever the settings of the session.
DROP TRIGGER ended ON public.regress_flow;
DROP TRIGGER closed ON public.regress_flow;
INSERT INTO public.regress_flow VALUES ('x', 1000, -7, 9223372036854775807, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'v', 'epoch');
SELECT count(*) FROM public.temptoken_mint_many('flows',
    '{x,1000,-7,9223372036854775807,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,v}', '1 hour');
CREATE TRIGGER t1 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
CREATE TRIGGER t2 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'num');
CREATE TRIGGER t3 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'small');
CREATE TRIGGER t4 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'big');
CREATE TRIGGER t5 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'uid');
CREATE TRIGGER t6 AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'name');
DELETE FROM public.regress_flow WHERE id = 'x';
SELECT count(*) FROM temptoken.temp_tokens;
DROP TRIGGER t1 ON public.regress_flow;
DROP TRIGGER t2 ON public.regress_flow;
DROP TRIGGER t3 ON public.regress_flow;
DROP TRIGGER t4 ON public.regress_flow;
DROP TRIGGER t5 ON public.regress_flow;
DROP TRIGGER t6 ON public.regress_flow;

-- Mistakes are errors, and nothing is lost.
INSERT INTO public.regress_flow (id) VALUES ('y');
\set SHOW_CONTEXT never
CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'stamp');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'nothing');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'ctid');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad BEFORE DELETE ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH STATEMENT EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
DELETE FROM public.regress_flow;
DROP TRIGGER bad ON public.regress_flow;
CREATE TRIGGER bad AFTER INSERT ON public.regress_flow FOR EACH ROW EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'id');
INSERT INTO public.regress_flow (id) VALUES ('z');
DROP TRIGGER bad ON public.regress_flow;
SELECT id FROM public.regress_flow ORDER BY id;
-- A virtual generated column, which PostgreSQL has from 18 on, has no value in the row.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        EXECUTE 'ALTER TABLE public.regress_flow ADD virtual text GENERATED ALWAYS AS (id) VIRTUAL';
        CREATE TRIGGER bad AFTER DELETE ON public.regress_flow FOR EACH ROW
            EXECUTE FUNCTION public.temptoken_delete_by_resource_id_trigger('flows', 'virtual');
        BEGIN
            DELETE FROM public.regress_flow;
            RAISE EXCEPTION 'it was taken for NULL';
        EXCEPTION WHEN undefined_column THEN
        END;
    END IF;
END $$;

DROP TABLE public.regress_flow;
DROP ROLE regress_app;
DELETE FROM temptoken.temp_tokens;
DELETE FROM temptoken.scopes;
