/*
 * summary.c: what a page holds, for the properties of the file it lies in.
 *
 * No fate is known here, so delete marks are taken to be committed and newest versions to
 * stay: what is counted as doomed is a guess that decides when a compaction is worth while, no
 * more.  Unfrozen xids are exact, for on them hangs how far the commit log is kept.
 */
#include "codec/pagebytes.h"

#define FIRST_NORMAL_XID	3

/* The entries of a chain above the one at hand. */
typedef struct Above
{
	bool		version;
	bool		end;			/* a delete mark or KILL: the row is gone, or soon will be */
} Above;

/* Comparison as PostgreSQL's, in a circle. */
static inline bool
Precedes(uint32_t a, uint32_t b)
{
	return (int32_t) (a - b) < 0;
}

static void
CountUnfrozen(CodecSummary *sum, uint32_t xid)
{
	if (sum->unfrozen == 0 || Precedes(xid, sum->oldest_unfrozen))
		sum->oldest_unfrozen = xid;
	if (sum->unfrozen == 0 || Precedes(sum->newest_unfrozen, xid))
		sum->newest_unfrozen = xid;
	sum->unfrozen++;
}

/* xids that mean no transaction need no commit log. */
static inline bool
IsUnfrozen(const char *node)
{
	return !EndsChain((uint8_t) node[NODE_KIND_FLAGS]) &&
		Load32(node + NODE_XID) >= FIRST_NORMAL_XID;
}

static bool
IsDoomed(CodecSummary *sum, CodecKind kind, Above *above)
{
	bool		doomed = true;

	switch (kind)
	{
		case CODEC_INSERT:
		case CODEC_UPDATE:
			doomed = above->version || above->end;
			above->version = true;
			break;
		case CODEC_DELETE:
			sum->deletes++;
			above->end = true;
			break;
		case CODEC_KILL:
			above->end = true;
			break;
		case CODEC_DEADSLOT:
			sum->deadslots++;
			break;
		default:
			break;
	}
	return doomed;
}

static void
SummarizeChain(const char *nodes, size_t size, CodecSummary *sum)
{
	Above		above = {false, false};
	size_t		node_size;

	for (size_t at = 0; at < size; at += node_size)
	{
		const char *node = nodes + at;

		node_size = NodeSize(node);
		sum->entries++;
		if (IsDoomed(sum, (CodecKind) ((uint8_t) node[NODE_KIND_FLAGS] & CODEC_KIND_MASK), &above))
		{
			sum->doomed++;
			sum->doomed_bytes += node_size;
		}
		if (IsUnfrozen(node))
			CountUnfrozen(sum, Load32(node + NODE_XID));
	}
}

void
CodecSummarize(const void *page, size_t len, CodecSummary *sum)
{
	const char *bytes = page;
	PageShape	shape;

	if (page == NULL || !CodecCheckPage(bytes, len, &shape))
		return;
	sum->pages++;
	sum->bytes += len;
	sum->rows += shape.nchains;
	for (int i = 0; i < shape.nchains; i++)
	{
		size_t		start = DirectoryOffset(PageDirectory(bytes, i));

		SummarizeChain(bytes + start, PageChainEnd(bytes, shape.nchains, len, i) - start, sum);
	}
}
