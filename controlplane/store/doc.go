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
// A value is the object without metadata.resourceVersion, which is the key's etcd mod
// revision: protobuf in the envelope of Kubernetes, JSON of custom kinds.
// Both are read of any kind (rules.Restore). One more field, which decoding passes
// over, tells the write apart from every other; by it a process recognises its
// own in the watch. Every write is one transaction on one key that
// compares its mod revision, so no two objects share a revision and a watch can
// resume between any two changes. A create compares the mod revision of its
// namespace too, and that of its kind's definition if it has one: nothing comes into
// a namespace, or of a kind, that is being deleted.
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
// nothing to do) is checked against etcd first, and given when the caches hold what it
// was read from, so that what the client reads next is not older than that.
//
// # Faults
//
// When etcd goes away reads go on from the caches and writes wait, at most
// Config.Timeout, for its return. A write that was cut off is tried again; when
// that finds the key changed, the watch shows whether the first attempt did it. A
// create looks there before it is tried again: the object may have been made and
// deleted since. A deletion has taken place if it was the next change of the
// object. The watch resumes at the last revision. If
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
