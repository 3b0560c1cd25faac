/*
 * prune.c: what may be let go of a page.
 */
#include "codec/pagebytes.h"

/* Prunes nothing yet. */
bool
CodecPrune(const void *page, size_t len, bool complete, const CodecPruning *p,
		   CodecBuf *out, bool *changed, const char **error)
{
	PageShape	shape;

	*changed = false;
	if (page != NULL && CodecCheckPage(page, len, &shape))
		return true;
	if (error != NULL)
		*error = "damaged page";
	return false;
}
