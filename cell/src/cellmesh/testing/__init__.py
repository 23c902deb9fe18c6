"""Cells in the process of a test: the whole way of a message, without starting anything by hand.

    from cellmesh.testing import mesh
    from word_count import cell

    async def test_words_are_counted():
        async with mesh(cell) as m:
            reply = await m.ask("word-count", "query", {"text": "two words"})
            assert reply.payload == {"words": 2}

The cells are real ones, with HTTP between them and inboxes on disk, in a directory that is deleted at the end.
Any way of running coroutines in tests will do, ``asyncio.run`` among them.
"""

from cellmesh.testing.meshes import Kept, Mesh, mesh

__all__ = ["Kept", "Mesh", "mesh"]
