/*
 * keys.c: keys of the column families.  Numbers are big-endian, so that memcmp
 * order is the order of storages and pages.
 *
 * Parsers refuse the reserved storage id 0 and the page number that PostgreSQL
 * calls InvalidBlockNumber: neither names a row.
 */
#include "codec/pagebytes.h"

static void
PutBig(char *p, uint64_t v, int bytes)
{
	for (int i = bytes - 1; i >= 0; i--)
	{
		p[i] = (char) (v & 0xff);
		v >>= 8;
	}
}

static uint64_t
GetBig(const char *p, int bytes)
{
	uint64_t	v = 0;

	for (int i = 0; i < bytes; i++)
		v = v << 8 | (uint8_t) p[i];
	return v;
}

void
CodecPageKey(char key[CODEC_PAGE_KEY_SIZE], OrbitStorageId storage, uint32_t page)
{
	PutBig(key, storage, 8);
	PutBig(key + 8, page, 4);
}

bool
CodecPageKeyParse(const char *key, size_t len, OrbitStorageId *storage, uint32_t *page)
{
	if (len != CODEC_PAGE_KEY_SIZE)
		return false;
	*storage = GetBig(key, 8);
	*page = (uint32_t) GetBig(key + 8, 4);
	return *storage != ORBIT_INVALID_STORAGE && *page <= ORBIT_MAX_PAGE;
}

void
CodecStorageKey(char key[CODEC_STORAGE_KEY_SIZE], OrbitStorageId storage, char record)
{
	PutBig(key, storage, 8);
	key[8] = record;
}

bool
CodecStorageKeyParse(const char *key, size_t len, OrbitStorageId *storage, char *record)
{
	if (len != CODEC_STORAGE_KEY_SIZE)
		return false;
	*storage = GetBig(key, 8);
	*record = key[8];
	return *storage != ORBIT_INVALID_STORAGE;
}

void
CodecGenerationKey(char key[CODEC_GENERATION_KEY_SIZE], uint64_t generation)
{
	PutBig(key, ORBIT_INVALID_STORAGE, 8);
	PutBig(key + 8, generation, 8);
}

bool
CodecGenerationKeyParse(const char *key, size_t len, uint64_t *generation)
{
	if (len != CODEC_GENERATION_KEY_SIZE || !CodecKeyIsReserved(key, len))
		return false;
	*generation = GetBig(key + 8, 8);
	return true;
}

bool
CodecKeyIsReserved(const char *key, size_t len)
{
	return len >= 8 && GetBig(key, 8) == ORBIT_INVALID_STORAGE;
}
