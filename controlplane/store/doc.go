// Package store is api.Objects over etcd. It is the only package that imports
// the etcd client.
//
// # Layout
//
//	/registry/<group>/<plural>/<namespace>/<name>   namespaced kinds
//	/registry/<group>/<plural>/<name>               cluster-wide kinds
//	/registry.compact                               the compactor's turn, see below
//
// <group> is "core" for the group that has no name; /registry is Config.Prefix.
// A value is the object's JSON without metadata.resourceVersion: that is the
// key's etcd mod revision. Every write is one transaction on one key that
// compares its mod revision, so no two objects share a revision and a watch can
// resume between any two changes. A create compares the mod revision of its
// namespace too: nothing comes into a namespace that is being deleted.
//
// Events (core/v1) hang on a lease of their own and vanish an hour after their
// last write.
//
// # Reading
//
// One etcd watch on the prefix feeds a cache per kind (api/cache), which answers
// every get, list and watch; each revision is decoded once, and not at all when
// this process wrote it. A write returns when the caches have reached it, so a
// client sees its own writes. Changes that another process made to the same
// etcd arrive as fast as the watch carries them: a reader that has to see
// those too needs a linearizable read, which is: ask etcd for its revision, let
// the caches reach it (Store.catchUp), read. Writes do not depend on the age of
// the cache: an answer that a stale state could explain (conflict, not found,
// nothing to do) is checked against etcd first.
//
// # Faults
//
// When etcd goes away reads go on from the caches and writes wait, at most
// Config.Timeout, for its return; a write that was cut off is tried again and
// recognises its own first attempt. The watch resumes at the last revision. If
// that was compacted meanwhile, everything is read anew and the difference
// becomes events; if etcd has lost revisions (a restored backup) all watches
// end with Expired.
//
// # Compaction
//
// Every Config.CompactEvery one process, whoever first moves the key above on,
// drops the revisions that were old at the last turn, so between one and two
// periods of history stay.
package store
