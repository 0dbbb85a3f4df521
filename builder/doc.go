// Package builder makes OCI images of functions from their source, on the
// machine it runs on, without a registry or a container engine. An Engine makes
// the content for one language; Push sends an image to a registry, Save writes
// it as an archive.
//
// Images are reproducible: the same source, tool versions and platform give the
// same digest.
package builder
