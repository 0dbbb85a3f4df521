// Package custom makes kinds of CustomResourceDefinitions: it says which definitions
// are sound, what their schemas make of an object, and which kinds there are.
// It decides purely; design/022 has the whole.
package custom
