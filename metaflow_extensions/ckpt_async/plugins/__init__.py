"""What the extension adds to Metaflow: tables only."""

STEP_DECORATORS_DESC = [("checkpoint", ".checkpoint.decorator.CheckpointDecorator")]

CLIS_DESC = [("checkpoint", ".checkpoint.cli.cli")]
