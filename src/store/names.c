/*
 * names.c: names of the relations that this process has opened, by storage, for messages.
 * When a file turns out to be damaged is no time to look into the catalog.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "store/store_internal.h"

typedef struct StorageName
{
	OrbitStorageId storage;
	NameData	name;
} StorageName;

static HTAB *names = NULL;

void
StoreNameStorage(OrbitStorageId storage, const char *name)
{
	StorageName *n;
	bool		found;

	if (names == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(OrbitStorageId),
			.entrysize = sizeof(StorageName),
			.hcxt = CacheMemoryContext};

		names = hash_create("orbit storage names", 64, &ctl,
							HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	n = hash_search(names, &storage, HASH_ENTER, &found);
	namestrcpy(&n->name, name);
}

const char *
StoreDescribe(OrbitStorageId storage)
{
	static char text[NAMEDATALEN + 32];
	StorageName *n = NULL;

	if (names != NULL)
		n = hash_search(names, &storage, HASH_FIND, NULL);
	if (n != NULL)
		snprintf(text, sizeof(text), "table \"%s\"", NameStr(n->name));
	else
		snprintf(text, sizeof(text), "storage " UINT64_FORMAT, storage);
	return text;
}
