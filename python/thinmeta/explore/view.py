"""Pages of an explorer in a terminal; whatever there is to know is in the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static
from textual.worker import Worker, WorkerState, get_current_worker

from thinmeta.errors import UsageError
from thinmeta.explore.model import History
from thinmeta.explore.pages import hex_lines
from thinmeta.explore.places import (
    PLACES,
    DevicesPlace,
    HomePlace,
    OwnersPlace,
    parse_place,
)

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from thinmeta.explore.model import Explorer
    from thinmeta.explore.pages import Page
    from thinmeta.explore.places import Place

__all__ = ["ExploreApp"]


class _StoppedError(Exception):
    """Nobody waits for a search any more."""


class Rows(DataTable[Text]):
    """The table of a page."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter", "select_cursor", "follow")]


class ExploreApp(App[None]):
    """Shows pages, and goes from one to the next.

    Args:
        explorer: Where pages come from; it stays open.
        start: The first place.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { background: $primary; color: $text; text-style: bold; padding: 0 1; }
    #facts { padding: 0 1; height: auto; }
    #troubles { padding: 0 1; height: auto; max-height: 8; color: $error; text-style: bold; }
    #left { width: 1fr; height: 1fr; }
    #rows { height: 1fr; }
    #hex { width: 78; padding: 0 1; border-left: solid $primary; }
    #bytes { width: 75; }
    #say { padding: 0 1; height: auto; color: $warning; }
    .-narrow #body { layout: vertical; }
    .-narrow #hex { width: 1fr; height: 12; border-left: none; border-top: solid $primary; }
    .-narrow.-short #hex, .-tiny #hex { display: none; }
    .-tiny #facts { max-height: 3; overflow-y: auto; }
    .-tiny #troubles { max-height: 2; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace,b", "go_back", "back"),
        Binding("f", "go_forward", "forward"),
        Binding("g", "ask", "go to"),
        Binding("s", "go_home", "superblock"),
        Binding("d", "devices", "devices"),
        Binding("o", "owners", "who maps"),
        Binding("x", "hex", "hex"),
        Binding("r", "again", "read again"),
        Binding("escape", "leave", "stop", show=False),
        Binding("q", "quit", "quit"),
    ]

    def __init__(self, explorer: Explorer, start: Place | None = None) -> None:
        super().__init__()
        # Beside each other where there is room for the columns of a hexadecimal dump.
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (140, "-wide")]
        self.VERTICAL_BREAKPOINTS = [(0, "-tiny"), (18, "-short"), (36, "-tall")]
        self._explorer = explorer
        self.history = History(HomePlace() if start is None else start)
        #: What is shown; ``None`` before anything is.
        self.shown: Page | None = None
        self._cursors: dict[Place, int] = {}
        self._search: Worker[Page] | None = None

    def compose(self) -> ComposeResult:
        """What the screen consists of."""
        yield Static(id="title", markup=False)
        with Horizontal(id="body"):
            with Vertical(id="left"):
                yield Static(id="facts", markup=False)
                yield Static(id="troubles", markup=False)
                yield Rows(id="rows", cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="hex"):
                yield Static(id="bytes", markup=False)
        yield Static(id="say", markup=False)
        yield Input(id="goto", placeholder=PLACES)
        yield Footer()

    def on_mount(self) -> None:
        """Show the first page."""
        self.query_one("#goto").display = False
        self.say("")
        self._open()

    # ---- showing ----

    def say(self, words: str) -> None:
        """A line above the keys; empty: none."""
        line = self.query_one("#say", Static)
        line.update(_plain(words))
        line.display = bool(words)

    def _open(self) -> None:
        """Show the page of where we are."""
        self._stop()
        self.say("")
        place = self.history.place
        if not isinstance(place, OwnersPlace):
            self._show(self._explorer.page(place))
            return
        # All of the pool is read for it, which may take a while.
        self.say("looking at all mappings (escape stops it)")
        self._search = self.run_worker(
            lambda: self._explorer.page(place, progress=self._progress),
            thread=True,
            exit_on_error=False,
        )

    def _progress(self, done: int, total: int) -> None:
        """Called in the thread of a search."""
        if get_current_worker().is_cancelled:
            raise _StoppedError
        if total:
            percent = min(100, 100 * done // total)
            self.call_from_thread(self._tell_progress, percent)

    def _tell_progress(self, percent: int) -> None:
        if self._search is not None:
            self.say(f"looking at all mappings: {percent} % (escape stops it)")

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A search has ended."""
        if event.worker is not self._search or event.state not in (
            WorkerState.SUCCESS,
            WorkerState.ERROR,
        ):
            return
        worker, self._search = self._search, None
        self.say("")
        if worker.result is not None:
            self._show(worker.result)
        else:
            self.say(f"the search failed: {worker.error}")

    def _stop(self) -> None:
        if self._search is not None:
            self._search.cancel()
            self._search = None

    def _show(self, page: Page) -> None:
        self.shown = page
        title = f"{self._explorer.name}  \N{MIDDLE DOT}  {page.title}"
        self.query_one("#title", Static).update(_plain(title))
        width = max((len(name) for name, _ in page.facts), default=0)
        facts = "\n".join(f"{name:<{width}}  {what}" for name, what in page.facts)
        self.query_one("#facts", Static).update(_plain(facts))
        troubles = self.query_one("#troubles", Static)
        troubles.update(_plain("\n".join(map(str, page.troubles))))
        troubles.display = bool(page.troubles)
        self._fill(page)
        raw = "" if page.raw is None else "\n".join(hex_lines(page.raw))
        self.query_one("#bytes", Static).update(raw)
        self.query_one("#hex").scroll_home(animate=False)

    def _fill(self, page: Page) -> None:
        table = self.query_one(Rows)
        table.clear(columns=True)
        numbers = [_is_number_column(page, at) for at in range(len(page.heads))]
        for head, is_number in zip(page.heads, numbers, strict=True):
            table.add_column(Text(head, justify="right" if is_number else "left"))
        for row in page.rows:
            style = "bold red" if row.code else "" if row.to is None else "bold"
            table.add_row(
                *(
                    Text(_plain(cell), style, justify="right" if is_number else "left")
                    for cell, is_number in zip(row.cells, numbers, strict=True)
                )
            )
        if page.more is not None:
            table.add_row(Text("more ...", "bold"), *[Text()] * (len(page.heads) - 1))
        table.move_cursor(row=self._cursors.get(page.place, 0))
        table.focus()

    # ---- going ----

    def go(self, place: Place) -> None:
        """Go somewhere else."""
        self._remember()
        self.history.go(place)
        self._open()

    def _remember(self) -> None:
        if self.shown is not None:
            self._cursors[self.shown.place] = self.query_one(Rows).cursor_row

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Follow a row."""
        page = self.shown
        if page is None:
            return
        at = event.cursor_row
        place = page.rows[at].to if at < len(page.rows) else page.more
        if place is None:
            self.say("this row leads nowhere")
        else:
            self.go(place)

    def action_go_back(self) -> None:
        """Go back."""
        self._remember()
        if self.history.back():
            self._open()

    def action_go_forward(self) -> None:
        """Go forward again."""
        self._remember()
        if self.history.forward():
            self._open()

    def action_go_home(self) -> None:
        """Go to the superblock."""
        self.go(HomePlace())

    def action_devices(self) -> None:
        """Go to the devices."""
        self.go(DevicesPlace())

    def action_again(self) -> None:
        """Read the page again."""
        self._remember()
        self._open()

    def action_hex(self) -> None:
        """Show or hide the bytes."""
        pane = self.query_one("#hex")
        pane.display = not pane.display

    def action_ask(self) -> None:
        """Ask where to go."""
        self._ask("")

    def action_owners(self) -> None:
        """Ask for a data block."""
        self._ask("data ")

    def _ask(self, begun: str) -> None:
        line = self.query_one("#goto", Input)
        line.display = True
        line.value = begun
        line.focus()
        line.cursor_position = len(begun)
        # Focus selects what is there, and the first letter would replace it.
        line.select_on_focus = False

    def action_leave(self) -> None:
        """Close the line where places are typed, or stop a search."""
        if self._search is not None:
            self._stop()
            self.say("stopped")
        self._close_line()

    def _close_line(self) -> None:
        line = self.query_one("#goto", Input)
        line.display = False
        self.query_one(Rows).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go where somebody typed."""
        try:
            place = parse_place(event.value)
        except UsageError as error:
            self.say(str(error))
            return
        self._close_line()
        self.go(place)


def _is_number_column(page: Page, at: int) -> bool:
    return bool(page.rows) and all(row.cells[at][:1].isdigit() for row in page.rows)


def _plain(words: str) -> str:
    """Words without what a terminal would obey."""
    return "".join(each if each.isprintable() or each == "\n" else "?" for each in words)
