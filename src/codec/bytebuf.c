/*
 * bytebuf.c: the growing byte buffer.
 */
#include <stdlib.h>

#include "codec/pagebytes.h"

#define BUF_MIN_CAP		256

bool
CodecBufReserve(CodecBuf *b, size_t extra)
{
	size_t		need;
	size_t		cap;
	char	   *data;

	if (extra <= b->cap - b->len && b->data != NULL)
		return true;
	if (extra > SIZE_MAX / 4 - b->len)
		return false;
	need = b->len + extra;
	/* half as much again, so that a run of appends stays linear */
	cap = b->cap + b->cap / 2;
	if (cap < need)
		cap = need;
	if (cap < BUF_MIN_CAP)
		cap = BUF_MIN_CAP;
	data = realloc(b->data, cap);
	if (data == NULL)
		return false;
	b->data = data;
	b->cap = cap;
	return true;
}

bool
CodecBufAppend(CodecBuf *b, const void *bytes, size_t n)
{
	if (!CodecBufReserve(b, n))
		return false;
	if (n > 0)
		memcpy(b->data + b->len, bytes, n);
	b->len += n;
	return true;
}

void
CodecBufFree(CodecBuf *b)
{
	free(b->data);
	b->data = NULL;
	b->len = 0;
	b->cap = 0;
}
