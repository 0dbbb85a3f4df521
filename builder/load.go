package builder

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Load reads what Save has written.
func Load(file string) (*Image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := &saved{blobs: map[string][]byte{}}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		if s.blobs[h.Name], err = io.ReadAll(r); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	img, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("%s holds no image of `faas build`: %w", file, err)
	}
	return img, nil
}

// saved is an image in a file; it implements partial.CompressedImageCore.
type saved struct {
	blobs    map[string][]byte
	raw      []byte // manifest
	manifest v1.Manifest
}

func (s *saved) open() (*Image, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(s.blobs["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		return nil, fmt.Errorf("index.json does not name one image: %w", err)
	}
	d := index.Manifests[0]
	s.raw = s.blobs[blobName(d.Digest)]
	if hashOf(s.raw) != d.Digest {
		return nil, fmt.Errorf("the manifest %s is not whole", d.Digest)
	}
	if err := json.Unmarshal(s.raw, &s.manifest); err != nil {
		return nil, err
	}
	img := &Image{Ref: d.Annotations["io.containerd.image.name"], Digest: d.Digest.String()}
	for _, l := range append(s.manifest.Layers, s.manifest.Config) {
		if hashOf(s.blobs[blobName(l.Digest)]) != l.Digest {
			return nil, fmt.Errorf("the part %s is not whole", l.Digest)
		}
	}
	for _, l := range s.manifest.Layers {
		img.Size += l.Size
	}
	var err error
	img.image, err = partial.CompressedToImage(s)
	return img, err
}

// RawConfigFile implements partial.CompressedImageCore.
func (s *saved) RawConfigFile() ([]byte, error) {
	return s.blobs[blobName(s.manifest.Config.Digest)], nil
}

// MediaType implements partial.CompressedImageCore.
func (s *saved) MediaType() (types.MediaType, error) { return s.manifest.MediaType, nil }

// RawManifest implements partial.CompressedImageCore.
func (s *saved) RawManifest() ([]byte, error) { return s.raw, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (s *saved) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range s.manifest.Layers {
		if l.Digest == h {
			return savedLayer{l, s.blobs[blobName(h)]}, nil
		}
	}
	return nil, fmt.Errorf("there is no layer %s", h)
}

type savedLayer struct {
	d       v1.Descriptor
	content []byte
}

func (l savedLayer) Digest() (v1.Hash, error) { return l.d.Digest, nil }
func (l savedLayer) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.content)), nil
}
func (l savedLayer) Size() (int64, error)                { return l.d.Size, nil }
func (l savedLayer) MediaType() (types.MediaType, error) { return l.d.MediaType, nil }
