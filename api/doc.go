// Package api is the contract of the house: the object kinds and the three
// seams between the components. It imports nothing of this module.
//
// Objects are k8s.io/api types (and Function, our own kind) with the Kubernetes
// wire format. Errors are k8s.io/apimachinery's StatusError with its closed set
// of reasons: make them with the constructors of apimachinery's api/errors
// (NewNotFound, NewAlreadyExists, NewConflict, NewInvalid, …) and test them
// with its predicates (IsNotFound, …). Every other error is a fault.
//
// The seams are
//
//   - Objects: declared state, with watch;
//   - Capacity: instances of functions, and the endpoints that answer;
//   - Agent: the pods of one node.
//
// Each has an in-process implementation in the component that owns it, a remote
// one in api/remote and a memory one in api/memory, and all of them pass the
// conformance suite in api/seamtest.
package api
