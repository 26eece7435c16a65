"""The database holds what the record of operators' actions promises."""

from django.db import migrations

_ON = """
CREATE FUNCTION operator_actions_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.outcome = 'started' AND NEW.outcome <> 'started'
       AND to_jsonb(NEW) - ARRAY['outcome', 'result', 'ended_at']
         = to_jsonb(OLD) - ARRAY['outcome', 'result', 'ended_at'] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'operator_actions is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER operator_actions_append_only BEFORE UPDATE OR DELETE ON operator_actions
    FOR EACH ROW EXECUTE FUNCTION operator_actions_append_only();
"""
_OFF = """
DROP TRIGGER operator_actions_append_only ON operator_actions;
DROP FUNCTION operator_actions_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("console", "0001_initial")]
    operations = [migrations.RunSQL(_ON, _OFF)]
