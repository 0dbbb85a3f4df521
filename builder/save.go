package builder

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Save writes the image to a file: an OCI layout that `docker load` and
// containerd's import read as well.
func Save(img *Image, file string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".image-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = errors.Join(Archive(img, f), f.Chmod(0o644), f.Close())
	if err != nil {
		return fmt.Errorf("save %s: %w", img.Ref, err)
	}
	return os.Rename(f.Name(), file)
}

// Archive writes what Save writes.
func Archive(img *Image, to io.Writer) error {
	named, err := reference.ParseNormalizedNamed(img.Ref)
	if err != nil {
		return err
	}
	named = reference.TagNameOnly(named)
	a := archive{w: tar.NewWriter(to)}
	desc, docker := a.image(img.image)
	tag := "latest"
	if t, ok := named.(reference.Tagged); ok {
		tag = t.Tag()
	}
	desc.Annotations = map[string]string{"io.containerd.image.name": named.String(), "org.opencontainers.image.ref.name": tag}
	docker.RepoTags = []string{reference.FamiliarString(named)}
	a.json("index.json", v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{desc}})
	a.json("manifest.json", []dockerEntry{docker})
	a.put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return errors.Join(a.err, a.w.Close())
}

// dockerEntry is the manifest.json of docker's own archives.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// archive writes tar entries until the first error.
type archive struct {
	w   *tar.Writer
	err error
}

func (a *archive) put(name string, b []byte) {
	if a.err != nil {
		return
	}
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0)}
	if a.err = a.w.WriteHeader(h); a.err == nil {
		_, a.err = a.w.Write(b)
	}
}

func (a *archive) json(name string, v any) {
	b, err := json.Marshal(v)
	if a.err == nil {
		a.err = err
	}
	a.put(name, b)
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (a *archive) image(img v1.Image) (v1.Descriptor, dockerEntry) {
	manifest, err := img.RawManifest()
	config, err2 := img.RawConfigFile()
	layers, err3 := img.Layers()
	a.err = errors.Join(a.err, err, err2, err3)
	entry := dockerEntry{Config: blobName(hashOf(config))}
	for _, l := range layers {
		h, err := l.Digest()
		r, err2 := l.Compressed()
		if a.err = errors.Join(a.err, err, err2); a.err != nil {
			break
		}
		b, err := io.ReadAll(r)
		a.err = errors.Join(a.err, err, r.Close())
		a.put(blobName(h), b)
		entry.Layers = append(entry.Layers, blobName(h))
	}
	a.put(entry.Config, config)
	a.put(blobName(hashOf(manifest)), manifest)
	return v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hashOf(manifest), Size: int64(len(manifest))}, entry
}
