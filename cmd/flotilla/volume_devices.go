package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"flotilla/agent/api"
)

// lookTime bounds the wait for a host that does not answer, so that there is time left for the request itself.
const lookTime = 5 * time.Second

func lookAt(ctx context.Context, client *api.Client, agent, path string) (*api.Device, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return client.Device(ctx, agent, path)
}

// checkSource makes a size that was not given that of the source, and refuses a source that is in use or not of the size that
// the volume needs. A host that cannot be asked is warned of: its agent looks again when it opens the source.
func checkSource(ctx context.Context, client *api.Client, q *api.VolumeRequest, warn func(error)) error {
	d, err := lookAt(ctx, client, q.Primary, q.Source)
	if err != nil {
		err = fmt.Errorf("find the source's size on %s: %w", q.Primary, err)
		if api.CodeOf(err) == api.Unavailable && q.Size != 0 && !q.BitmapAtEnd {
			warn(fmt.Errorf("%w; it is looked at when its agent opens it", err))
			return nil
		}
		return err
	}
	room := d.Size
	if q.BitmapAtEnd {
		room = d.SizeWithBitmap
	}
	switch {
	case len(d.Uses) > 0:
		return inUse(q.Name, "source", q.Primary, d)
	case q.BitmapAtEnd && (room == 0 || q.Size > room):
		return fmt.Errorf("create volume %s: %s has %d bytes, and room for a volume of %d with its bitmap behind it: make the volume, and the file system in it, that small, or enlarge the source",
			q.Name, q.Source, d.Size, room)
	case q.Size == 0:
		q.Size = room
	case q.Size != room && !q.BitmapAtEnd:
		return fmt.Errorf("create volume %s: its source %s on %s has %d bytes, not %d: leave --size out, or give it a source of that size", q.Name, q.Source, q.Primary, d.Size, q.Size)
	}
	return wholeSectors(q, "source", q.Primary, d)
}

// checkTarget refuses a target that is in use, too small, or holds something, and returns what it holds that is to be
// overwritten. Its agent looks again, when it claims the target.
func checkTarget(ctx context.Context, client *api.Client, q *api.VolumeRequest, warn func(error)) (held []string, err error) {
	d, err := lookAt(ctx, client, q.Secondary, q.Target)
	if err != nil {
		err = fmt.Errorf("look at the target on %s: %w", q.Secondary, err)
		if api.CodeOf(err) == api.Unavailable {
			warn(fmt.Errorf("%w; it is looked at when its agent opens it", err))
			return nil, nil
		}
		return nil, err
	}
	switch {
	case len(d.Uses) > 0:
		return nil, inUse(q.Name, "target", q.Secondary, d)
	case d.Size < q.Size:
		return nil, fmt.Errorf("create volume %s: its target %s on %s has %d bytes, %d less than the volume of %d: enlarge it, or choose another", q.Name, q.Target, q.Secondary, d.Size, q.Size-d.Size, q.Size)
	case len(d.Signatures) > 0 && !q.Force && !q.Seeded:
		return nil, fmt.Errorf("create volume %s: its target %s on %s holds something: %s: if it is not needed, overwrite it with --force; if it is a copy of the source, compare it with --seeded",
			q.Name, q.Target, q.Secondary, strings.Join(d.Signatures, ", "))
	}
	if !q.Seeded {
		held = d.Signatures
	}
	return held, wholeSectors(q, "target", q.Secondary, d)
}

// inUse says who uses a device. No flag changes that.
func inUse(volume, what, agent string, d *api.Device) error {
	return fmt.Errorf("create volume %s: its %s %s on %s is in use: %s: end that first; --force does not overrule it, nor would the kernel",
		volume, what, d.Path, agent, strings.Join(d.Uses, "; "))
}

// wholeSectors refuses a volume that ends inside a sector of a block device.
func wholeSectors(q *api.VolumeRequest, what, agent string, d *api.Device) error {
	if d.LogicalBlock <= 0 || q.Size%int64(d.LogicalBlock) == 0 {
		return nil
	}
	return fmt.Errorf("create volume %s: its size of %d bytes is not a multiple of the sectors of %d bytes of its %s %s on %s: make it %d",
		q.Name, q.Size, d.LogicalBlock, what, d.Path, agent, q.Size/int64(d.LogicalBlock)*int64(d.LogicalBlock))
}

// overwritten names what a target held, as a line of its own.
func overwritten(agent, path string, held []string) string {
	if len(held) == 0 {
		return ""
	}
	return fmt.Sprintf("what %s on %s held is overwritten: %s\n", path, agent, strings.Join(held, ", "))
}

// checkRecopied refuses to have a target overwritten that holds something: it may be the new disk's, or what the volume has
// left there.
func checkRecopied(ctx context.Context, client *api.Client, group, name string, force bool) (note string, err error) {
	status, err := client.Status(ctx)
	if err != nil {
		return "", err
	}
	var v *api.Volume
	for i := range status.Groups {
		for k := range status.Groups[i].Volumes {
			if status.Groups[i].Name == group && status.Groups[i].Volumes[k].Name == name {
				v = &status.Groups[i].Volumes[k]
			}
		}
	}
	if v == nil {
		return "", nil // who answers the request says what is not there
	}
	d, err := lookAt(ctx, client, v.Secondary, v.Target)
	switch {
	case err != nil && !force:
		return "", fmt.Errorf("look at the new target of volume %s/%s on %s: %w: mend that first, or have it overwritten unseen with --force", group, name, v.Secondary, err)
	case err != nil:
		return "", nil
	case len(d.Signatures) > 0 && !force:
		return "", fmt.Errorf("recopy volume %s/%s: its target %s on %s holds something: %s: if that is what the volume has left there, or is not needed, overwrite it with --force",
			group, name, v.Target, v.Secondary, strings.Join(d.Signatures, ", "))
	}
	return overwritten(v.Secondary, v.Target, d.Signatures), nil
}
