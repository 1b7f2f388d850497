from align_iqa_plugin.cli import app

if __name__ == '__main__':  # where processes are spawned, each imports this file
    app(prog_name='align-iqa')
