from align_iqa_plugin.cli import app

app(prog_name='align-iqa')
