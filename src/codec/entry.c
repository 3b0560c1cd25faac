/*
 * entry.c: identity of chain entries, and proof at compile time that the structs
 * of codec.h have the layout that the files on disk have.
 */
#include "codec/pagebytes.h"

#define CheckField(type, field, at) \
	_Static_assert(offsetof(type, field) == (at), #type "." #field)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
			   "pages and records are little endian");

CheckField(CodecEntry, len, 0);
CheckField(CodecEntry, xid, 4);
CheckField(CodecEntry, cid, 8);
CheckField(CodecEntry, kind_flags, 12);
CheckField(CodecEntry, tag, 13);
CheckField(CodecEntry, payload, CODEC_ENTRY_HEADER);
_Static_assert(_Alignof(CodecEntry) == 4, "an entry lies at 4 modulo 8");
/* so a payload begins at 2 modulo 8, as t_infomask2 does at offset 18 */
_Static_assert((NODE_ENTRY + CODEC_ENTRY_HEADER) % 8 == 18 % 8, "image alignment");

_Static_assert(sizeof(CodecDelete) == 8, "CodecDelete");
CheckField(CodecDelete, page, 0);
CheckField(CodecDelete, slot, 4);
CheckField(CodecDelete, flags, 5);
CheckField(CodecDelete, zero, 6);

_Static_assert(sizeof(CodecRegistry) == 48, "CodecRegistry");
CheckField(CodecRegistry, format, 0);
CheckField(CodecRegistry, kind, 4);
CheckField(CodecRegistry, persistence, 5);
CheckField(CodecRegistry, dropped, 6);
CheckField(CodecRegistry, zero, 7);
CheckField(CodecRegistry, tablespace, 8);
CheckField(CodecRegistry, database, 12);
CheckField(CodecRegistry, relnode, 16);
CheckField(CodecRegistry, backend, 20);
CheckField(CodecRegistry, relid, 24);
CheckField(CodecRegistry, creator, 28);
CheckField(CodecRegistry, owner, 32);
CheckField(CodecRegistry, encoding, 40);
CheckField(CodecRegistry, zero2, 44);

_Static_assert(sizeof(CodecCounters) == 32, "CodecCounters");
CheckField(CodecCounters, format, 0);
CheckField(CodecCounters, put_mark, 4);
CheckField(CodecCounters, next_page, 8);
CheckField(CodecCounters, first_live, 12);
CheckField(CodecCounters, live_pages, 16);
CheckField(CodecCounters, zero, 20);
CheckField(CodecCounters, zero2, 24);

_Static_assert(sizeof(CodecVacuum) == 16, "CodecVacuum");
CheckField(CodecVacuum, format, 0);
CheckField(CodecVacuum, cleaned, 8);

_Static_assert(sizeof(CodecFlushed) == 32, "CodecFlushed");
CheckField(CodecFlushed, flushed_lsn, 0);
CheckField(CodecFlushed, covered_redo, 8);
CheckField(CodecFlushed, next_storage, 16);
CheckField(CodecFlushed, timeline, 24);
CheckField(CodecFlushed, clean, 28);

bool
CodecSameIdentity(const CodecEntry *a, const CodecEntry *b)
{
	CodecKind	kind = CodecEntryKind(a);

	return a->xid == b->xid && a->cid == b->cid &&
		kind == CodecEntryKind(b) &&
		(a->tag == b->tag || kind == CODEC_DELETE);
}
