// Package registry is an OCI distribution v1.1 registry over a folder, for the
// images that this platform builds. It is mounted under /v2/ beside other
// handlers.
//
// On disk: blobs/sha256/<hex> holds content (manifests too), uploads/<id> what
// is being sent, repos/<name>/_manifests/<hex> a manifest's media type and
// repos/<name>/_tags/<tag> its digest. Every file is written beside its place,
// synced and renamed, so a crash leaves nothing half done. Blobs are shared by
// all repositories.
package registry
