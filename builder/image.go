package builder

import (
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is who functions run as: nobody that exists anywhere else.
const user = "65532:65532"

const searchPath = "PATH=/usr/local/bin:/usr/bin:/bin"

// assemble makes an image of content.
func assemble(c Content, arch string) (*Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	out := &Image{}
	adds := make([]mutate.Addendum, 0, len(c.Layers))
	for _, l := range c.Layers {
		b, err := l.pack()
		if err != nil {
			return nil, err
		}
		out.Size += int64(len(b.packed))
		adds = append(adds, mutate.Addendum{
			Layer: b, MediaType: types.OCILayerZStd,
			History: v1.History{Created: v1.Time{Time: time.Unix(0, 0).UTC()}, CreatedBy: l.Note},
		})
	}
	img, err := mutate.Append(img, adds...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	file.Config = c.Config
	if out.image, err = mutate.ConfigFile(img, file); err != nil {
		return nil, err
	}
	digest, err := out.image.Digest()
	out.Digest = digest.String()
	return out, err
}

// configure is what the images of all languages have in common.
func configure(entrypoint []string, dir string, env ...string) v1.Config {
	return v1.Config{
		User:         user,
		Entrypoint:   entrypoint,
		WorkingDir:   dir,
		Env:          append([]string{searchPath}, env...),
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}
}

// rootFiles are what programs expect of any system.
func rootFiles() []File {
	files := []File{
		{Path: "/etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/sbin/nologin\napp:x:65532:65532:app:/home/app:/sbin/nologin\n")},
		{Path: "/etc/group", Mode: 0o644, Content: []byte("root:x:0:\napp:x:65532:\n")},
		{Path: "/tmp", Mode: 0o1777, Dir: true},
	}
	for _, from := range []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"} {
		if b, err := os.ReadFile(from); err == nil {
			return append(files, File{Path: "/etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Content: sortedCerts(b)})
		}
	}
	return files
}

// sortedCerts orders a bundle, whose order differs among machines of one
// release.
func sortedCerts(b []byte) []byte {
	const end = "-----END CERTIFICATE-----\n"
	certs := strings.SplitAfter(string(b), end)
	certs = slices.DeleteFunc(certs, func(s string) bool { return !strings.HasSuffix(s, end) })
	slices.Sort(certs)
	return []byte(strings.Join(certs, ""))
}
