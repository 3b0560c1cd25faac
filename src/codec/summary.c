/*
 * summary.c: what a page holds, for the properties of the file it lies in.
 */
#include "codec/pagebytes.h"

/* Counts nothing but pages yet. */
void
CodecSummarize(const void *page, size_t len, CodecSummary *sum)
{
	PageShape	shape;

	if (page != NULL && CodecCheckPage(page, len, &shape))
		sum->pages++;
}
