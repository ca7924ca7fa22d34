"""A page in the browser that recognises the emotion of a recording, by gradio: on this machine, without a network."""

import base64
import dataclasses
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ser_jax import api
from ser_jax.errors import UserError
from ser_jax.report.attention_figure import attention_figure
from ser_jax.report.timeline import write_timeline
from ser_jax.studies import heard_files, restored
from ser_jax.studies.neighbours import Neighbours, nearest
from ser_jax.studies.recognise import probability_columns
from ser_jax.studies.workdirs import recordings

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
LARGEST = "200mb"  # of an upload
OVER_TIME, ATTENDED = "Emotions over time", "What the model attended to"
_CSS = "body:not(.dark) * { --neutral-400: #63636b }"  # gradio's own is too pale to read on white
_HOP = 0.25  # seconds from one window of a timeline to the next


@dataclasses.dataclass(frozen=True)
class Told:
    """What the page shows of a recording.

    Attributes:
      probabilities: of the emotions.
      notes: what is odd about the recording, in words; empty where nothing is.
      timeline: a picture of the emotions over time; None for a recording of less than two windows.
      attention: a picture of what the model attended to; None for one without attention.
      nearest: recordings of the corpus that are nearest to it; None where there is no corpus.
    """

    probabilities: dict[str, float]
    notes: str
    timeline: Path | None
    attention: Path | None
    nearest: pd.DataFrame | None = None


def tell(model: api.Model, path: str | os.PathLike, folder: Path, neighbours: Neighbours | None = None) -> Told:
    """Returns what a model says of a file, and which of `neighbours` are nearest to it; pictures go to `folder`.

    Raises `UserError`, which names the file, for what is no recording or too short for the model.
    """
    name = Path(path).name
    found: list[UserError] = []
    groups = list(heard_files.read_groups(model.recogniser, [str(path)], found))
    if found:
        raise UserError(str(found[0]).replace(str(path), name))
    ((one,),) = groups
    recording = recordings({name: one.waveform}, model.emotions)
    values = model.recogniser.predict(recording, False).probabilities[0]
    table, timeline = api.timeline_of(model.recogniser, recording, hop=_HOP), None
    if len(table) > 1:
        timeline = folder / "timeline.png"
        write_timeline(timeline, table, probability_columns(model.emotions), f"{name} ({model.name})")
    try:
        own = model.recogniser.restored
        ((_, title, look),) = restored.look_at(own, {name: one.waveform}, model.recogniser.runs[0])
        attention = folder / "attention.png"
        attention_figure(look, title, attention)
    except UserError:  # a model without attention
        attention = None
    probabilities = dict(zip(model.emotions, map(float, values), strict=True))
    beside = nearest(neighbours, model.recogniser, one.waveform) if neighbours else None
    return Told(probabilities, "; ".join(one.notes), timeline, attention, beside)


def page(model: api.Model, folder: Path, neighbours: Neighbours | None = None) -> "gradio.Blocks":
    """Returns the page of a model; pictures go to `folder`."""
    import gradio

    def recognise(path: str | None) -> tuple:
        if path is None:
            return {}, "", *_part(None), *_part(None), *_part(None)
        try:
            told = tell(model, path, Path(tempfile.mkdtemp(dir=folder)), neighbours)
        except UserError as error:
            raise gradio.Error(str(error), print_exception=False) from None
        pictures = (
            path and _picture(path, said) for path, said in ((told.timeline, OVER_TIME), (told.attention, ATTENDED))
        )
        parts = (shown for value in (*pictures, told.nearest) for shown in _part(value))
        return told.probabilities, told.notes or "nothing odd", *parts

    corpus = model.recogniser.restored.metadata["corpus"]["name"]
    with gradio.Blocks(title="ser_jax", analytics_enabled=False) as blocks:
        gradio.Markdown(
            f"# The emotion of a recording\n\nModel `{model.name}`, trained on the corpus `{corpus}`. It knows "
            f"{', '.join(model.emotions)}, and gives one of these even for silence or music. Nothing leaves this "
            "machine."
        )
        with gradio.Row():
            with gradio.Column(min_width=300):
                audio = gradio.Audio(type="filepath", label="Recording", sources=["upload", "microphone"], buttons=[])
                notes = gradio.Textbox(label="Notes on the recording", interactive=False)
            with gradio.Column(min_width=300):
                label = gradio.Label(label="Probabilities")
        with gradio.Column(visible=False) as over_time:
            gradio.Markdown(f"## {OVER_TIME}")
            timeline = gradio.HTML()
        with gradio.Column(visible=False) as attended:
            gradio.Markdown(f"## {ATTENDED}")
            attention = gradio.HTML()
        with gradio.Column(visible=False) as beside:
            gradio.Markdown(
                f"## Nearest recordings of the corpus\n\nOf {len(neighbours.table) if neighbours else 0} recordings of "
                f"`{corpus}`, those whose vectors, which the classifier is given, point in the most similar direction. "
                "1 is the same direction."
            )
            table = gradio.Dataframe(interactive=False, show_label=False)
        audio.change(recognise, audio, [label, notes, over_time, timeline, attended, attention, beside, table])
    return blocks


def _picture(path: Path, said: str) -> str:
    """Returns a picture as an element that is read out, which gradio's own pictures are not."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{said}" src="data:image/png;base64,{data}" style="max-width: 100%">'


def _part(value: Any) -> "tuple[gradio.Column, Any]":
    """Returns a part of the page, which is shown where it has a value, and that value."""
    import gradio

    return gradio.Column(visible=value is not None), value


def serve(
    model: api.Model, port: int, ended: threading.Event | None = None, neighbours: Neighbours | None = None
) -> None:
    """Serves the page on this machine until it is interrupted, or `ended` is set."""
    with tempfile.TemporaryDirectory(prefix="ser_jax_demo_") as folder:
        # Read when gradio is imported. Uploads lie in the folder too: voices do not outlive the page.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        import gradio

        # The system's own fonts: the theme's would be fetched.
        theme = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
        blocks = page(model, Path(folder), neighbours)
        blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=LARGEST,
            theme=theme,
            css=_CSS,
            footer_links=[],
        )
        print(f"http://{HOST}:{port} (Ctrl-C ends it)", flush=True)
        try:
            (ended or threading.Event()).wait()
        finally:
            blocks.close(verbose=False)


def refuse_model(model: api.Model) -> None:
    """Raises `UserError` for a model of dimensions alone: the page is about emotions."""
    if not model.emotions:
        raise UserError(f"demo: model {model.name} predicts no emotions, expected one that does")


def refuse_port(port: int) -> None:
    """Raises `UserError` for a port that cannot be had."""
    with socket.socket() as one:
        one.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a connection that has just ended holds it for a minute
        try:
            one.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}; expected a port that is free") from error
