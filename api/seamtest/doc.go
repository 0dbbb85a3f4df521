// Package seamtest is the conformance suite of the seams: it holds every
// implementation to what the interfaces in package api promise.
package seamtest
