"""List pretrained speech encoders, or get one.

`encoders` lists the encoders that are known by name and those on this machine. `encoders get NAME` downloads one;
`encoders get FOLDER` (or FILE) reads a checkpoint that you have. Its weights are checked against its
configuration, and its source, licence and hash are kept with it.
"""

import argparse

EXAMPLES = """examples:
  python launch.py encoders
  python launch.py encoders get smart-turn-v3.2
  python launch.py encoders get wavlm-large
  python launch.py encoders get MY_CHECKPOINT_FOLDER --name mine --licence "CC BY 4.0"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `encoders`."""
    parser.epilog = EXAMPLES
    parser.add_argument("what", nargs="*", metavar="get NAME|FOLDER|FILE", help="without it, list the encoders")
    parser.add_argument("--data_dir", help="where encoders are kept, in its folder encoders (default: as for corpora)")
    parser.add_argument("--name", help="the name it gets here (default: its own)")
    parser.add_argument("--licence", help="a note on its licence, kept with it and with all that is made with it")


def run(args: argparse.Namespace) -> int:
    """Prints the list, or where the encoder now is."""
    from ser_jax.encoders import store
    from ser_jax.errors import UserError

    if not args.what:
        print(_listing(args.data_dir))
        return 0
    if len(args.what) != 2 or args.what[0] != "get":
        raise UserError(f"encoders {' '.join(args.what)}: expected `encoders` or `encoders get NAME|FOLDER|FILE`")
    folder = store.get(args.what[1], args.data_dir, name=args.name, licence=args.licence)
    card = store.available(args.data_dir)[folder.name]
    for key, value in card.items():
        print(f"{key:<14}{value or 'unknown'}")
    print(f"folder        {folder}")
    return 0


def _listing(data_dir: str | None) -> str:
    from ser_jax.encoders import store
    from ser_jax.encoders.catalogue import KNOWN

    here = store.available(data_dir)
    rows = [("name", "family", "layers", "width", "parameters", "here", "licence")]
    for name, known in KNOWN.items():
        size = f"{known.millions:.1f} M"
        mark = "yes" if name in here else ""
        rows.append((name, known.family, str(known.layers), str(known.width), size, mark, known.licence))
    for name, card in here.items():
        if name not in KNOWN:
            size = f"{card['parameters'] / 1e6:.1f} M"
            sizes = (card["family"], str(card["layers"]), str(card["width"]), size)
            rows.append((name, *sizes, "yes", card["licence"] or "unknown"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"encoders are kept in {store.encoder_folder('', data_dir)}"])
