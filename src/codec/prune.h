/*
 * codec/prune.h: private to codec.  The rules of pruning, for one chain.
 */
#ifndef ORBIT_PRUNE_H
#define ORBIT_PRUNE_H

#include "codec/codec.h"

/*
 * nodes: one united chain, rewritten in place; size: its bytes.  Returns the bytes that are
 * left, 0 when the chain is gone.  *changed is set when anything is different, and never
 * cleared.
 */
extern size_t CodecPruneChain(const CodecPruning *p, bool complete,
							  char *nodes, size_t size, bool *changed);

/* Can no horizon change this checked page?  True for one of frozen versions only. */
extern bool CodecIsPruned(const char *page, size_t len);

#endif							/* ORBIT_PRUNE_H */
