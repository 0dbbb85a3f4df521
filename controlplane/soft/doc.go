// Package soft is api.Objects in which some writes are taken into memory first
// and into the durable store behind.
//
// # Why
//
// What must survive a crash of the control plane is what people declared, the
// nodes and the addresses. Function replicas and their counts are soft: load
// makes them anew, and every node agent knows what it runs. So a cold start
// must not wait for a disk, and a replica that lived for a second need not have
// been on one.
//
// # How
//
// For the kinds of Config.Kinds the store in memory is the truth, with
// resource versions of its own (clients compare them within a kind only). A
// write for which Config.Soft answers true is visible to every reader and watch
// when it returns, and is stored within about Config.Delay; what changes
// several times until then is stored once, and what comes and goes is never
// stored, nor is one for which Config.Passing answers true. Every other write of
// these kinds is stored first and visible then, as are, with it, all soft
// changes that the object had. Other kinds go straight to the durable store.
//
// While the durable store is away soft writes go on, and are stored when it is
// back.
//
// # After a crash
//
// Resource versions begin with the time of the start, so those of before are
// expired and watchers list anew. Objects are as they were stored last;
// controllers and agents set right what is older than the world.
//
// There is one soft store for a durable one: what others write to the durable
// store is taken over when it is seen, and wins over what is not stored yet.
package soft
