"""What the page fetches besides its views: uploads in, files with segments and pictures out.

Rules
-----
* Requests come through `guard` first. Handlers answer with a sentence, never with a traceback.
* An upload is several files at most (a DICOM series); it is read as one volume and then removed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from pathlib import Path

from aiohttp import BodyPartReader, web

from protosam.errors import InvalidInput, ProtoSAMError
from protosam.scene import Message
from protosam_app.app import App
from protosam_app.saving import ENDINGS, Format, take, write
from protosam_app.shelf import ENDING
from protosam_app.uploads import CHUNK, safe_name


class Routes:
    """Handlers for one application.

    Parameters
    ----------
    app : App
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def table(self) -> list[web.RouteDef]:
        """Routes for aiohttp."""
        return [
            web.post("/upload", self.upload),
            web.get("/download/{form}", self.download),
            web.get("/example/{number}", self.example),
            web.get("/judged/{number}", self.judged),
            web.get("/favicon.ico", _no_content),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        """Take files and open them as one volume."""
        inbox = self._app.inbox
        folder = inbox.new_folder()
        try:
            name = await self._receive(request, folder)
            if self._take_examples(folder):
                return web.json_response({"opened": True})
            opened = await self._app.open(_what_to_open(folder), name)
        except ProtoSAMError as error:
            self._app.tell(error)
            opened = False
        finally:
            inbox.remove(folder)
        return web.json_response({"opened": opened})

    async def download(self, request: web.Request) -> web.StreamResponse:
        """Give the segments as a file."""
        asked = request.match_info["form"]
        form: Format | None = next((one for one in ENDINGS if one == asked), None)
        if form is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="No such file.\n")
        app, folder = self._app, self._app.inbox.new_folder()
        try:
            picture = take(app.stage, app.segments)
            path = await app.beside(partial(write, picture, folder, form))
            body = await app.beside(path.read_bytes)
        except ProtoSAMError as error:
            app.tell(error)
            return web.json_response({"message": str(error)}, status=HTTPStatus.CONFLICT)
        finally:
            app.inbox.remove(folder)
        return _file(body, picture.file_name(form))

    async def judged(self, request: web.Request) -> web.StreamResponse:
        """Give a picture of the last verdict: truth, answer before, answer now."""
        verdict = self._app.controller.status.learning.verdict
        place = _number(request) - 1
        if verdict is None or not 0 <= place < len(verdict.pictures):
            return web.Response(status=HTTPStatus.NOT_FOUND, text="No such picture.\n")
        return web.Response(body=verdict.pictures[place], content_type="image/png")

    async def example(self, request: web.Request) -> web.StreamResponse:
        """Give an example as a file."""
        entry = self._app.shelf.get(_number(request))
        if entry is None:
            return web.Response(status=HTTPStatus.NOT_FOUND, text="No such example.\n")
        return _file(entry.content, entry.file_name)

    def _take_examples(self, folder: Path) -> bool:
        """Put the examples among uploaded files on the shelf; whether nothing else is left."""
        files = [one for one in folder.iterdir() if one.suffix.lower() == ENDING]
        for path in sorted(files):
            entry = self._app.shelf.put_file(path)
            path.unlink()
            self._app.message(Message("info", f"The example {entry.name} is at hand."))
        return bool(files) and not any(folder.iterdir())

    async def _receive(self, request: web.Request, folder: Path) -> str:
        """Write the files of an upload; return a name for the volume."""
        if not request.content_type.startswith("multipart/"):
            raise InvalidInput("The upload holds no files.", "Choose files to open.")
        taken, names = 0, []
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader) and part.filename:
                taken = await self._app.inbox.save(
                    folder, part.filename, _chunks(part), taken_bytes=taken
                )
                names.append(part.filename)
        if not names:
            raise InvalidInput("The upload holds no files.", "Choose files to open.")
        top = names[0].replace("\\", "/").split("/")[0]
        return safe_name(top) if len(names) > 1 else ""


def _number(request: web.Request) -> int:
    """Read the number at the end of the address; -1 if it is none."""
    text = request.match_info["number"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _file(body: bytes, file_name: str) -> web.Response:
    """Download under a name, of which headers take plain letters only."""
    name = file_name.encode("ascii", "replace").decode().replace("?", "_")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=body, content_type="application/octet-stream", headers=headers)


def _what_to_open(folder: Path) -> Path:
    """Choose the single file, or the folder of several."""
    files = list(folder.iterdir())
    return files[0] if len(files) == 1 else folder


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(CHUNK):
        yield chunk


async def _no_content(_: web.Request) -> web.Response:
    return web.Response(status=HTTPStatus.NO_CONTENT)
