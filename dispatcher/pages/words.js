// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en");

/** 12345 as 12,345. */
export const count = (number) => (number === null || number === undefined ? null : whole.format(number));

/** A count with its noun. */
export const counted = (number, noun) => `${whole.format(number)} ${noun}${number === 1 ? "" : "s"}`;

/** Bytes as MiB. */
export function bytes(number) {
  if (number === null || number === undefined) return null;
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? number : number.toFixed(1)} ${units[unit]}`;
}

/** Seconds as 2 h 7 min. */
export function duration(seconds) {
  const all = Math.round(seconds);
  const [hours, minutes] = [Math.floor(all / 3600), Math.floor(all / 60) % 60];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${all % 60} s` : `${all} s`;
}

/** A time in a film: 12:43. */
export function clock(ms) {
  const [hours, minutes, seconds] = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

/** A moment, in the reader's own time. */
export function moment(text) {
  const at = new Date(text);
  return Number.isNaN(at.getTime()) ? text : at.toLocaleString();
}

/** Joules as watt hours. */
export function energy(joules) {
  const hours = joules / 3600;
  return hours < 1000 ? `${hours.toFixed(3)} Wh` : `${(hours / 1000).toFixed(3)} kWh`;
}
